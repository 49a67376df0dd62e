"""A random sample of a model's calls in one process, written to files as it is drawn.

A unit is one call, or, for a model with a state, up to `longest` consecutive calls of one sequence. Each unit
draws a random priority; those with the least priorities stay (a bottom-k sample). So every unit of a run has
the same chance, and the samples of several processes merge into one by their priorities.
"""

from __future__ import annotations

import bisect
import json
import mmap
import random
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# relative imports: the application's process loads these files under another name than onnxq
from .arrays import DIGEST_BYTES, content_digest, mark_of, write_arrays
from .models import file_of

INPUTS, OUTPUTS = ".inputs", ".outputs"
"""Endings of the files of a call."""
SEQUENCES, LONGEST = 8, 64
"""Sequences that the samples are to hold at least, and most calls of one."""
STREAMS = 64
"""Calls whose outputs are remembered: as many sequences may run side by side."""
CALLS_WITHOUT_STATE = 512
"""Calls after which a model that never took an output back is known to have no state."""


class Unit:
    """Calls that stay together: one, or a part of a sequence.

    path      path of its files, without their endings
    priority  random number; the least stay
    content   digest of its content; empty for a part of a sequence
    kept      whether its calls are written
    length    calls so far
    written   calls whose inputs are in files
    bytes     size of these files
    """

    __slots__ = ("bytes", "content", "kept", "length", "path", "priority", "written")

    def __init__(self, path: Path, priority: float, content: str, *, kept: bool) -> None:
        self.path, self.priority, self.content, self.kept = path, priority, content, kept
        self.length = self.written = self.bytes = 0

    def file(self, position: int, ending: str) -> Path:
        """Return the path of a file of one of its calls."""
        return self.path.with_name(f"{self.path.name}-{position:04d}{ending}")

    def write(self, position: int, ending: str, arrays: Mapping[str, Any]) -> int:
        """Write a file if the unit is kept; return its bytes, 0 for none."""
        if not self.kept:
            return 0
        size = write_arrays(self.file(position, ending), arrays)
        if not self.kept:  # another thread has dropped the unit in the meantime
            self.remove()
            return 0
        return size

    def remove(self) -> None:
        """Remove the files."""
        for position in range(self.length):
            for ending in (INPUTS, OUTPUTS):
                self.file(position, ending).unlink(missing_ok=True)


class Reservoir:
    """The sample of one model's calls in one process; the recorder's lock protects it."""

    def __init__(self, folder: Path, session: Any, digest: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        path, self.name = file_of(session)
        self.inputs = {each.name: each.type for each in session.get_inputs()}
        self.outputs = [each.name for each in session.get_outputs()]
        self.most, self.most_bytes = int(settings["samples"]), int(settings["bytes"])
        self.longest = max(2, min(LONGEST, self.most // SEQUENCES))
        self.random = random.Random(f"{settings['seed']} {folder.parent.name} {digest}")
        self.units: list[tuple[float, Unit]] = []
        self.samples = self.bytes = self.calls = 0
        self.threshold = 1.0
        self.contents: set[str] = set()
        self.has_state: bool | None = None
        self.following: OrderedDict[bytes, Unit] = OrderedDict()
        folder.mkdir(parents=True)
        described = {
            "name": self.name,
            "path": path,
            "sha256": digest,
            "inputs": [
                [each.name, each.type, [str(size) for size in each.shape]] for each in session.get_inputs()
            ],
        }
        (folder / "model.json").write_text(json.dumps(described), encoding="utf-8")
        # a counter in a mapped file: it is right however the process ends
        with open(folder / "calls", "w+b") as stream:
            stream.write(bytes(8))
            stream.flush()
            self.counter = mmap.mmap(stream.fileno(), 8)

    def count(self) -> None:
        """Count a call."""
        self.calls += 1
        self.counter[:] = self.calls.to_bytes(8, "little")

    def place(self, feeds: Mapping[str, Any]) -> tuple[Unit, list[bytes]]:
        """Return the unit of a call, and the marks of its inputs.

        A call that takes an output of another one continues its unit.
        """
        if self.has_state is False:
            return self._new_unit(feeds), []
        marks = [mark for mark in map(mark_of, feeds.values()) if mark]
        before = [self.following.pop(mark) for mark in marks if mark in self.following]
        if before:
            self.has_state = True
            if before[0].length < self.longest:
                return before[0], marks
        elif self.has_state is None and self.calls > CALLS_WITHOUT_STATE:
            self.has_state = False
            self.following.clear()
        return self._new_unit(feeds), marks

    def remember(self, unit: Unit, given: list[bytes], outputs: Iterable[Any]) -> None:
        """Remember the outputs of a call: the call that takes one of them as input follows it."""
        if self.has_state is False:
            return
        for mark in map(mark_of, outputs):
            if mark and mark not in given:  # not an input handed through
                self.following[mark] = unit
        while len(self.following) > STREAMS * len(self.outputs):
            self.following.popitem(last=False)

    def _new_unit(self, feeds: Mapping[str, Any]) -> Unit:
        priority = self.random.random()
        fits = self.samples < self.most and self.bytes < self.most_bytes
        kept = priority < (
            self.threshold if fits or not self.units else min(self.threshold, self.units[-1][0])
        )
        content = ""
        if kept and self.has_state is not True:
            content = content_digest(feeds)
            kept = content not in self.contents
        if not kept:
            return Unit(self.folder, priority, content, kept=False)
        name = f"{time.time_ns():020d}-{int(priority * 2**52):014x}-{content or '0' * 2 * DIGEST_BYTES}"
        unit = Unit(self.folder / name, priority, content, kept=True)
        bisect.insort(self.units, (priority, unit), key=lambda each: each[0])
        self.contents.add(content)
        return unit

    def add(self, unit: Unit, size: int) -> None:
        """Count a written sample, and drop the units of highest priority that are too many."""
        if not unit.kept:  # dropped while it was being written
            return
        unit.written += 1
        unit.bytes += size
        self.samples += 1
        self.bytes += size
        while len(self.units) > 1 and (self.samples > self.most or self.bytes > self.most_bytes):
            self.threshold = min(self.threshold, self.units[-1][0])
            self.drop(self.units[-1][1])

    def drop(self, unit: Unit) -> None:
        """Remove a unit and its files."""
        if not unit.kept:
            return
        self.units.remove((unit.priority, unit))
        unit.kept = False
        self.contents.discard(unit.content)
        self.samples -= unit.written
        self.bytes -= unit.bytes
        unit.remove()
