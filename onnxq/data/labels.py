"""Labels: a CSV with the header file,label, the folders that samples lie in, or what the data itself says."""

import csv
from pathlib import Path, PurePath

from onnxq.data.sample import Sample
from onnxq.errors import DataError

FOLDERS = "folders"


def labelled(samples: list[Sample], labels: str | None) -> list[Sample]:
    """The samples that have labels, in the order of the labels; all, with what labels they bring, where None is asked for.

    Raises:
        DataError: the labels cannot be read, or do not fit the samples.
    """
    if labels is None:
        return samples
    if labels == FOLDERS:
        return _by_folder(samples)
    path = Path(labels)
    given = _read(path)
    by_name = {sample.name: sample for sample in samples}
    if not set(given) & set(by_name):
        raise DataError(f"{path}: names no file of the data folder")
    missing = set(given) - set(by_name)
    if missing:
        raise DataError(f"{path}: {min(missing)} is not in the data folder")
    return [Sample(name, by_name[name].load, label) for name, label in given.items()]


def _by_folder(samples: list[Sample]) -> list[Sample]:
    """The first folder of each sample's path, numbered by name."""
    parts = [PurePath(sample.name).parts for sample in samples]
    lone = next((sample.name for sample, part in zip(samples, parts, strict=True) if len(part) < 2), None)
    if lone is not None:
        raise DataError(f"--labels folders: {lone} lies in no class folder")
    numbers = {name: i for i, name in enumerate(sorted({part[0] for part in parts}))}
    return [
        Sample(sample.name, sample.load, str(numbers[part[0]]))
        for sample, part in zip(samples, parts, strict=True)
    ]


def _read(path: Path) -> dict[str, str]:
    """Label by file name, in the file's order; what an empty one means is up to the kind of score."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: expected the header file,label, found {','.join(reader.fieldnames or ()) or 'nothing'}"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the labels cannot be read: {error}") from error
    for number, row in enumerate(rows, start=2):
        if row["file"] is None or row["label"] is None:
            raise DataError(f"{path}, line {number}: expected a file and a label")
    return {row["file"]: row["label"] for row in rows}
