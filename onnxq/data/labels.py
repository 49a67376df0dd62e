"""Labels of samples from a CSV with the header file,label, from class folders, or from the data."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TextIO

from onnxq.data.sample import Sample
from onnxq.errors import DataError

FOLDERS = "folders"
MOST_LINE = 1 << 20
"""Most characters of a line of a labels file."""


def labelled(samples: list[Sample], labels: str | None, *, every: bool = True) -> list[Sample]:
    """Return the labelled samples in the order of the labels file; all samples for None.

    Args:
        samples: of a data folder.
        labels: CSV with the header file,label, "folders", or None.
        every: whether each file of the CSV must be among the samples; otherwise others are left out.

    Raises:
        DataError: The labels cannot be read, or do not match the samples.
    """
    if labels is None:
        return samples
    if labels == FOLDERS:
        return _by_folder(samples)
    path = Path(labels)
    given = _read(path)
    by_name = {sample.name: sample for sample in samples}
    if not set(given) & set(by_name):
        raise DataError(f"{path}: names no file of the data folder: write paths relative to that folder")
    missing = set(given) - set(by_name)
    if missing and every:
        raise DataError(f"{path}: {min(missing)} is not in the data folder: remove the row or add the file")
    return [replace(by_name[name], label=label) for name, label in given.items() if name in by_name]


def _by_folder(samples: list[Sample]) -> list[Sample]:
    """Label each sample with the index of its top folder, in order of names."""
    parts = [PurePath(sample.name).parts for sample in samples]
    lone = next((sample.name for sample, part in zip(samples, parts, strict=True) if len(part) < 2), None)
    if lone is not None:
        raise DataError(f"--labels folders: {lone} is not in a class folder: move it into one")
    numbers = {name: i for i, name in enumerate(sorted({part[0] for part in parts}))}
    return [replace(sample, label=str(numbers[part[0]])) for sample, part in zip(samples, parts, strict=True)]


def _lines(stream: TextIO) -> Iterator[str]:
    while line := stream.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            raise csv.Error(f"a line of more than {MOST_LINE:,} characters")
        yield line


def _read(path: Path) -> dict[str, str]:
    """Read labels by file name, in file order; scores interpret empty labels."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(_lines(stream))
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: expected the header file,label, found "
                    f"{','.join(reader.fieldnames or ()) or 'nothing'}: add it as the first line"
                )
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot read the labels: {error}: give a CSV in UTF-8") from error
    for number, row in enumerate(rows, start=2):
        if row["file"] is None or row["label"] is None:
            raise DataError(
                f"{path}, line {number}: expected a file and a label: complete the line or remove it"
            )
    return {row["file"]: row["label"] for row in rows}
