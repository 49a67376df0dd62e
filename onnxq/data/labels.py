"""Labels of samples from a CSV with the header file,label, from class folders, or from the data."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TextIO

from onnxq.data.sample import Sample
from onnxq.errors import DataError

FOLDERS = "folders"
MOST_LINE = 1 << 20
"""Most characters of a line of a labels file."""


def labelled(
    samples: list[Sample], labels: str | None, *, names: Collection[str] = (), every: bool = True
) -> list[Sample]:
    """Return the labelled samples in the order of the labels file; all samples for None.

    Args:
        samples: of a data folder.
        labels: CSV with the header file,label, "folders", or None.
        names: names of all samples of the data folder, where `samples` are a part of them.
        every: whether each file of the CSV must be among the samples; otherwise others are left out.

    Raises:
        DataError: The labels cannot be read, or do not match the samples.
    """
    if labels is None:
        return samples
    by_name = {sample.name: sample for sample in samples}
    names = names or by_name
    if labels == FOLDERS:
        return _by_folder(samples, names)
    path = Path(labels)
    given = _read(path)
    if set(given).isdisjoint(names):
        raise DataError(f"{path}: names no file of the data folder: write paths relative to that folder")
    missing = set(given) - set(by_name)
    if missing and every:
        raise DataError(f"{path}: {min(missing)} is not in the data folder: remove the row or add the file")
    return [replace(by_name[name], label=label) for name, label in given.items() if name in by_name]


def class_folders(names: Collection[str]) -> list[str]:
    """Return the class folders of samples in the order of their class numbers.

    Args:
        names: names of all samples of the data folder.

    Raises:
        DataError: a sample is in none, or all are in the same.
    """
    lone = min((name for name in names if len(PurePath(name).parts) < 2), default=None)
    if lone is not None:
        raise DataError(f"--labels folders: {lone} is not in a class folder: move it into one")
    folders = sorted({PurePath(name).parts[0] for name in names})
    if len(folders) == 1:
        raise DataError(
            f"--labels folders: all samples are in the folder '{folders[0]}': give the folder that holds one "
            "for each class"
        )
    return folders


def _by_folder(samples: list[Sample], names: Collection[str]) -> list[Sample]:
    """Label each sample with the index of its top folder among those of all names."""
    numbers = {folder: str(number) for number, folder in enumerate(class_folders(names))}
    return [replace(sample, label=numbers[PurePath(sample.name).parts[0]]) for sample in samples]


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
    found = dict[str, str]()
    for number, row in enumerate(rows, start=2):
        name, label = row["file"], row["label"]
        if name is None or label is None:
            raise DataError(
                f"{path}, line {number}: expected a file and a label: complete the line or remove it"
            )
        if found.setdefault(name, label) != label:
            raise DataError(
                f"{path}, line {number}: {name} has the label '{found[name]}' in a line before, and "
                f"'{label}' here: remove one"
            )
    return found
