"""Checkpoints: the state of a training in a file, from which the same command goes on."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import OnnxqError, OutputError
from onnxq.finetuning.training import State
from onnxq.graph.files import check_target, staged
from onnxq.runtime.npz import npz_bytes
from onnxq.techniques.adamw import AdamState
from onnxq.types import Array, Floats
from onnxq.version import __version__


def check_checkpoint(path: Path | None, outputs: Iterable[Path], samples: Path) -> None:
    """Check before all work that a file is a checkpoint, or may become one.

    Args:
        path: the file; None for none.
        outputs: other files that the command writes.
        samples: folder of the samples, or what else they come from.

    Raises:
        OnnxqError: it is another file, or cannot be written.
    """
    if path is None:
        return
    if path.resolve() in {output.resolve() for output in outputs}:
        raise OnnxqError(f"--checkpoint {path}: is the output, too: choose another file")
    if path.resolve().is_relative_to(samples.resolve()):
        raise OnnxqError(
            f"--checkpoint {path}: lies among the samples of --calib and would be read as one of them: "
            "choose another folder"
        )
    try:
        check_target(path, [], force=True)
    except OutputError as error:
        raise OutputError(f"--checkpoint {str(error).replace(' with -o', '')}") from error
    if path.exists():
        _read(path)


def _read(path: Path) -> tuple[int, State, str, int]:
    """Read the part of the schedule, the state, the key and the number of reconstructed layers.

    Raises:
        OnnxqError: it is no checkpoint.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(str(arrays.pop("facts")))
        return int(facts["part"]), _state(facts, arrays), str(facts["key"]), int(facts["layers"])
    except Exception as error:  # numpy and json raise many types about a file that is none of theirs
        raise OnnxqError(
            f"--checkpoint {path}: not a checkpoint of onnxq, or damaged: delete it or choose another file"
        ) from error


def _state(facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    def group(name: str) -> dict[str, Floats]:
        return {
            key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")
        }

    first, second, values = group("first"), group("second"), group("values")
    return State(
        int(facts["step"]),
        values,
        {name: AdamState(first[name], second[name], facts["adam"][name]) for name in values},
        group("best"),
        float(facts["noise"]),
        tuple(facts["losses"]),
        facts["frozen"],
        tuple((int(step), float(noise)) for step, noise in facts["checks"]),
        factor=float(facts["factor"]),
    )


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training.

    path  the file; None to keep nothing
    key   what decides the result of the training: a state of another key is refused
    """

    path: Path | None
    key: str

    @staticmethod
    def of(path: Path | None, start: Mapping[str, Floats], *decisions: object) -> "Checkpoint":
        """Return the checkpoint of a training that these values decide.

        Args:
            path: the file; None to keep nothing.
            start: trained values at the start.
            decisions: other values.
        """
        key = hashlib.sha256(repr((__version__, *decisions)).encode())
        for name, value in sorted(start.items()):
            key.update(f"{name} {value.shape}".encode())
            key.update(np.ascontiguousarray(value).tobytes())
        return Checkpoint(path, key.hexdigest())

    def load(self, start: Mapping[str, Floats]) -> tuple[int, State, int] | None:
        """Return the part of the schedule, its state and the reconstructed layers; None without a file.

        Args:
            start: trained values at the start, whose names and shapes are those in the file.

        Raises:
            OnnxqError: the file is no checkpoint, or that of another training.
        """
        if self.path is None or not self.path.is_file():
            return None
        part, state, key, layers = _read(self.path)
        if key != self.key:
            raise OnnxqError(
                f"--checkpoint {self.path}: it belongs to a training with other options, samples or model: "
                "delete it or choose another file"
            )
        shapes = {name: value.shape for name, value in start.items()}
        if any({name: value.shape for name, value in each.items()} != shapes for each in state.arrays):
            raise OnnxqError(f"--checkpoint {self.path}: is damaged: delete it")
        return part, state, layers

    def saver(self, part: int, layers: int) -> Callable[[State], None]:
        """Return a function that keeps a state of one part of the schedule in the file.

        Args:
            part: of the schedule.
            layers: layers that were reconstructed before the training.
        """
        return lambda state: self._save(part, layers, state)

    def _save(self, part: int, layers: int, state: State) -> None:
        if self.path is None:
            return
        facts = {
            "key": self.key,
            "part": part,
            "layers": layers,
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
        try:
            with staged(self.path) as building:
                building.write_bytes(npz_bytes(arrays))
        except OutputError as error:
            raise OutputError(
                f"--checkpoint {error}: free space, or choose another file; the state before is kept"
            ) from error
