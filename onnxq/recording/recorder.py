"""The recorder inside the application.

These files (arrays, models, reservoir, recorder, sessions) run in the application's own Python (3.10 or
newer), which need not have onnxq: they import the standard library and, once ONNX Runtime is there, NumPy.
Whatever fails in them becomes a note in the recording, never an error of the application.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arrays import as_array
from .models import digest_of, file_of
from .reservoir import INPUTS, OUTPUTS, Reservoir, Unit


class Call:
    """One call between its start and its end."""

    __slots__ = ("marks", "position", "reservoir", "unit")

    def __init__(self, reservoir: Reservoir, unit: Unit, position: int, marks: list[bytes]) -> None:
        self.reservoir, self.unit, self.position, self.marks = reservoir, unit, position, marks


class Recorder:
    """Records the calls of all sessions of a process.

    Args:
        settings: folder, samples, bytes (most of each per model), outputs (whether to record them), seed.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.active = True
        self.start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.start_anew)

    def start_anew(self) -> None:
        """Record as a process of its own, of which nothing is recorded yet."""
        self.lock = threading.Lock()
        self.process: Path | None = None
        self.reservoirs: dict[str, Reservoir] = {}
        self.sessions: weakref.WeakKeyDictionary[Any, Reservoir] = weakref.WeakKeyDictionary()
        self.notes: set[str] = set()

    def start(self, session: Any, feeds: Mapping[str, Any]) -> Call | None:
        """Record the inputs of a call before it runs, because the application may change its arrays later.

        Returns:
            The call, for `end` or `drop`; None if it is not recorded.
        """
        if not self.active:
            return None
        try:
            return self._start(session, feeds)
        except Exception as error:  # the application goes on
            self._note(f"{file_of(session)[0] or 'a model'}: a call was not recorded", error)
            return None

    def _start(self, session: Any, feeds: Mapping[str, Any]) -> Call:
        with self.lock:
            reservoir = self.sessions.get(session)
            if reservoir is None:
                reservoir = self.sessions[session] = self._reservoir(session)
            inputs = reservoir.inputs
            arrays = {name: as_array(feeds[name], inputs[name]) for name in inputs if name in feeds}
            reservoir.count()
            unit, marks = reservoir.place(arrays)
            call = Call(reservoir, unit, unit.length, marks)
            unit.length += 1
        if len(arrays) < len(feeds):
            others = ", ".join(sorted(set(feeds) - set(arrays)))
            self._note(f"{reservoir.name}: the inputs {others} have defaults: they are not recorded")
        try:
            size = unit.write(call.position, INPUTS, arrays)
        except BaseException:
            self.drop(call)
            raise
        if size:
            with self.lock:
                reservoir.add(unit, size)
        return call

    def end(self, call: Call | None, names: Iterable[str] | None, outputs: Iterable[Any]) -> None:
        """Record the outputs of a call."""
        if call is None:
            return
        try:
            reservoir = call.reservoir
            arrays = [as_array(value) for value in outputs]
            with self.lock:
                reservoir.remember(call.unit, call.marks, arrays)
            if self.settings["outputs"]:
                found = dict(zip(names or reservoir.outputs, arrays, strict=False))
                call.unit.write(call.position, OUTPUTS, found)
        except Exception as error:  # the application goes on
            self._note(f"{call.reservoir.name}: the outputs of a call were not recorded", error)

    def drop(self, call: Call | None) -> None:
        """Drop the unit of a call that failed: its inputs are no good samples."""
        if call is not None:
            with self.lock:
                call.reservoir.drop(call.unit)

    @contextmanager
    def dropped_on_error(self, call: Call | None) -> Iterator[None]:
        """Drop a call if the block, which runs it, fails."""
        try:
            yield
        except BaseException:
            self.drop(call)
            raise

    def _reservoir(self, session: Any) -> Reservoir:
        digest = digest_of(session)
        if digest not in self.reservoirs:
            self.reservoirs[digest] = Reservoir(self._folder() / digest[:32], session, digest, self.settings)
        return self.reservoirs[digest]

    def _folder(self) -> Path:
        """Return the folder of this process; its number says in which order processes came."""
        if self.process is None:
            folder = Path(self.settings["folder"])
            number = sum(1 for _ in folder.iterdir())
            while self.process is None:
                try:
                    (folder / f"{number:06d}").mkdir()
                    self.process = folder / f"{number:06d}"
                except FileExistsError:
                    number += 1
        return self.process

    def _note(self, text: str, error: Exception | None = None) -> None:
        """Keep a note for the user, once."""
        text = text if error is None else f"{text}: {type(error).__name__}: {error}"
        try:
            if text not in self.notes:
                self.notes.add(text)
                with open(self._folder() / "notes", "a", encoding="utf-8") as stream:
                    stream.write(" ".join(text.split()) + "\n")
        except OSError:  # the folder is gone or full: nobody can be told
            self.active = False
