"""Checkpoints: the state of a training in a file, from which the same command goes on."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import OnnxqError, OutputError
from onnxq.finetuning.training import State
from onnxq.runtime.npz import npz_bytes
from onnxq.techniques.adamw import AdamState
from onnxq.types import Array, Floats


def check_checkpoint(path: Path | None, output: Path) -> None:
    """Check before all work that a file is a checkpoint, or may become one.

    Raises:
        OnnxqError: it is another file, or the output.
    """
    if path is None:
        return
    if path.resolve() == output.resolve():
        raise OnnxqError(f"--checkpoint {path}: is the output, too: choose another file")
    if path.exists():
        _read(path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read the facts and arrays of a file.

    Raises:
        OnnxqError: it is no checkpoint.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(str(arrays.pop("facts")))
        return facts, arrays
    except Exception as error:  # numpy and json raise many types about a file that is none of theirs
        raise OnnxqError(f"--checkpoint {path}: not a checkpoint of onnxq: choose another file") from error


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training.

    path  the file; None to keep nothing
    key   what decides the result of the training: a state of another key is refused
    """

    path: Path | None
    key: str

    @staticmethod
    def of(path: Path | None, *decisions: object) -> "Checkpoint":
        """Return the checkpoint of a training that these values decide."""
        return Checkpoint(path, hashlib.sha256(repr(decisions).encode()).hexdigest())

    def load(self) -> tuple[int, State] | None:
        """Return the part of the schedule and its state; None without a file.

        Raises:
            OnnxqError: the file is no checkpoint, or that of another training.
        """
        if self.path is None or not self.path.is_file():
            return None
        facts, arrays = _read(self.path)
        if facts["key"] != self.key:
            raise OnnxqError(
                f"--checkpoint {self.path}: it belongs to a training with other options, samples or model: "
                "delete it or choose another file"
            )

        def group(name: str) -> dict[str, Floats]:
            return {
                key.removeprefix(f"{name}/"): array
                for key, array in arrays.items()
                if key.startswith(f"{name}/")
            }

        first, second, values = group("first"), group("second"), group("values")
        adam = {name: AdamState(first[name], second[name], facts["adam"][name]) for name in values}
        checks = tuple((int(step), float(noise)) for step, noise in facts["checks"])
        state = State(
            facts["step"],
            values,
            adam,
            group("best"),
            facts["noise"],
            tuple(facts["losses"]),
            facts["frozen"],
            checks,
            factor=facts["factor"],
        )
        return facts["part"], state

    def saver(self, part: int) -> Callable[[State], None]:
        """Return a function that keeps a state of one part of the schedule in the file."""
        return lambda state: self._save(part, state)

    def _save(self, part: int, state: State) -> None:
        if self.path is None:
            return
        facts = {
            "key": self.key,
            "part": part,
            "step": state.step,
            "noise": state.noise,
            "factor": state.factor,
            "losses": state.losses,
            "frozen": dict(state.frozen),
            "checks": state.checks,
            "adam": {name: each.steps for name, each in state.adam.items()},
        }
        arrays: dict[str, Array] = {"facts": np.array(json.dumps(facts))}
        groups = {
            "values": state.values,
            "best": state.best,
            "first": {name: each.first for name, each in state.adam.items()},
            "second": {name: each.second for name, each in state.adam.items()},
        }
        for group, members in groups.items():
            arrays |= {f"{group}/{name}": array for name, array in members.items()}
        building = self.path.with_name(f"{self.path.name}.part")
        try:
            building.write_bytes(npz_bytes(arrays))
            os.replace(building, self.path)
        except OSError as error:
            building.unlink(missing_ok=True)
            raise OutputError(f"--checkpoint {self.path}: cannot be written: {error.strerror}") from error
