"""The finished recording: a folder per model, merged from the samples of all processes.

calib/decoder-1f0c9a52/recording.json   the model, its calls and samples
calib/decoder-1f0c9a52/inputs/0000.npz  a call; of models with a state inputs/0000/0000.npz, 0001.npz, ...
calib/decoder-1f0c9a52/outputs/...      the same names, with outputs, where they are recorded
"""

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.recording import reservoir
from onnxq.recording.arrays import read_arrays

MANIFEST = "recording.json"
INPUTS, OUTPUTS = "inputs", "outputs"
VERSION = 1
"""Version of the layout."""
NAME_LENGTH, DIGEST_LENGTH = 60, 8
"""Most characters of a model's name and of its digest in the name of a folder."""


@dataclass(frozen=True)
class RecordedModel:
    """The recording of one model.

    folder     name of its folder
    path       absolute path of the file; empty for a model that was given as bytes
    sha256     SHA-256 of the file or the bytes
    inputs     [name, type, shape] of each input
    calls      calls that the application made
    samples    calls that were kept
    sequences  sequences that they form; 0 for a model without a state
    bytes      size of the inputs
    processes  processes that called the model
    """

    folder: str
    path: str
    sha256: str
    inputs: Sequence[Sequence[Any]]
    calls: int
    samples: int
    sequences: int
    bytes: int
    processes: int
    outputs: bool = False


@dataclass(frozen=True)
class Recording:
    """Result of `onnxq record`.

    folder    the folder that was written; empty if nothing was recorded
    models    by decreasing number of calls
    warnings  calls that could not be recorded, and why
    exit_code of the application; 128 + N if signal N ended it; None for `onnxq.record`
    """

    folder: str
    models: list[RecordedModel]
    warnings: list[str] = field(default_factory=list)
    exit_code: int | None = None


@dataclass(frozen=True)
class _Unit:
    """A call or a part of a sequence of one process.

    start     time of its first call, as text that sorts
    priority  units of the least stay
    content   digest of its content
    samples   files of its calls' inputs
    """

    start: str
    priority: int
    content: str
    samples: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        return sum(sample.stat().st_size for sample in self.samples)


def collect(parts: Path, building: Path, samples: int, most_bytes: int) -> Recording:
    """Merge what the processes recorded: of each model the units with the least priorities.

    Args:
        parts: folder with a folder for each process.
        building: folder to fill.
        samples: most samples of a model.
        most_bytes: most bytes of a model's inputs.
    """
    processes = sorted(each for each in parts.iterdir() if each.is_dir())
    by_digest: dict[str, list[Path]] = {}
    warnings: list[str] = []
    for process in processes:
        for folder in sorted(each for each in process.iterdir() if (each / "model.json").is_file()):
            by_digest.setdefault(folder.name, []).append(folder)
        with suppress(FileNotFoundError):
            warnings += (process / "notes").read_text(encoding="utf-8").splitlines()
    models = [_merge(folders, building, samples, most_bytes) for folders in by_digest.values()]
    found = sorted((each for each in models if each is not None), key=lambda each: -each.calls)
    return Recording("", found, list(dict.fromkeys(warnings)))


def _merge(folders: Sequence[Path], building: Path, most: int, most_bytes: int) -> RecordedModel | None:
    """Write the folder of one model; None if no sample of it is there."""
    units = sorted(_units(folders), key=lambda unit: unit.priority)
    stateful = any(len(unit.samples) > 1 for unit in units)
    chosen = _chosen(units, most, most_bytes, distinct=not stateful)
    if not chosen:
        return None
    described = json.loads((folders[0] / "model.json").read_text(encoding="utf-8"))
    digest: str = described["sha256"]
    name = re.sub(r"[^\w.+-]+", "-", described["name"]).strip("-.")[:NAME_LENGTH] or "model"
    target = building / f"{name}-{digest[:DIGEST_LENGTH]}"
    width = max(4, len(str(len(chosen))))
    size, outputs = sum(unit.bytes for unit in chosen), False
    for number, unit in enumerate(sorted(chosen, key=lambda unit: unit.start)):
        for position, sample in enumerate(unit.samples):
            place = f"{number:0{width}d}" + (f"/{position:04d}" * stateful) + ".npz"
            _write(sample, target / INPUTS / place)
            others = sample.with_suffix(reservoir.OUTPUTS)
            if others.exists():
                _write(others, target / OUTPUTS / place)
                outputs = True
    result = RecordedModel(
        target.name,
        described["path"],
        digest,
        described["inputs"],
        sum(int.from_bytes((folder / "calls").read_bytes(), "little") for folder in folders),
        sum(len(unit.samples) for unit in chosen),
        len(chosen) if stateful else 0,
        size,
        len(folders),
        outputs,
    )
    content = {"version": VERSION, **asdict(result)}
    (target / MANIFEST).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return result


def _units(folders: Sequence[Path]) -> Iterator[_Unit]:
    for folder in folders:
        files = sorted(folder.glob(f"*{reservoir.INPUTS}"))
        for start, group in groupby(files, lambda file: file.name.rpartition("-")[0]):
            _, priority, content = start.split("-")
            yield _Unit(start, int(priority, 16), content, tuple(group))


def _chosen(units: Sequence[_Unit], most: int, most_bytes: int, *, distinct: bool) -> list[_Unit]:
    """Return the first units that fit; each content once if `distinct`."""
    chosen: list[_Unit] = []
    seen: set[str] = set()
    count = size = 0
    for unit in units:
        if distinct and int(unit.content, 16) and unit.content in seen:  # 0: not computed
            continue
        count, size = count + len(unit.samples), size + unit.bytes
        if chosen and (count > most or size > most_bytes):
            break
        chosen.append(unit)
        seen.add(unit.content)
    return chosen


def _write(source: Path, target: Path) -> None:
    """Write the arrays of a call as an `.npz` file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # np.savez refuses the name "file"
        for name, array in read_arrays(source).items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the description of a recorded model's folder; None if it has none of this version."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    valid = isinstance(content, dict) and content.get("version") == VERSION
    return content if valid and isinstance(content.get("sha256"), str) else None


def recorded_folders(path: Path) -> list[Path]:
    """Return the folders of recorded models in a folder, or the folder itself if it is one."""
    if not os.path.isdir(path):  # noqa: PTH112 (False for a name that is too long)
        return []
    candidates = [path, *sorted(each.parent for each in path.glob(f"*/{MANIFEST}"))]
    return [each for each in candidates if (each / INPUTS).is_dir() and read_manifest(each) is not None]
