"""Compare the settings that `onnxq init` finds with those with which models were trained.

    python benchmarks/settings.py CASE ...

A case is a folder with model.onnx, case.toml with the true [preprocess] table, and images in calib/ or eval/
(with labels.csv, if they have labels). A row per case and folder: the keys that are right, asked for
("undecided"), and wrong without a question. The exit code is 1 if any is wrong.
"""

import argparse
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness import print_header, print_row

from onnxq.data.preprocessing import ImageForm, parse_forms
from onnxq.evaluation.preprocessing_guess import guess_preprocessing

COLUMNS = ("case", "folder", "right", "asked", "wrong")
TOGETHER = {"std": "mean", "resize_short": "resize", "resize_height": "resize", "crop": "resize"}
"""Keys that are asked for together with another."""


def true_form(case: Path) -> ImageForm | None:
    """Return the case's own preprocessing; None for cases of other data."""
    with open(case / "case.toml", "rb") as stream:
        table = tomllib.load(stream).get("preprocess")
    return None if table is None else parse_forms(table, str(case / "case.toml")).image


def same(key: str, found: Any, true: Any) -> bool:
    """Tell whether two values mean the same: one number stands for all channels."""
    if key == "input":
        return found is None or found == true
    if key in ("mean", "std") and found and true:
        count = max(len(found), len(true))
        return bool(found * (count // len(found)) == true * (count // len(true)))
    return bool(found == true)


def compare(case: Path, folder: str) -> list[str]:
    """Return the row of a case and its number of wrong keys."""
    found, true = guess_preprocessing(case / "model.onnx", case / folder), true_form(case)
    assert found.image is not None and true is not None
    right, asked, wrong = [], [], []
    for each in fields(ImageForm):
        key, have, want = each.name, getattr(found.image, each.name), getattr(true, each.name)
        if same(key, have, want):
            right.append(key)
        elif key in found.undecided or TOGETHER.get(key) in found.undecided:
            asked.append(key)
        else:
            wrong.append(key)
    return [case.name, folder, str(len(right)), " ".join(asked), " ".join(wrong)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="+")
    print_header(COLUMNS)
    failed = False
    for case in parser.parse_args().cases:
        for folder in ("calib", "eval"):
            if (case / folder).is_dir() and true_form(case) is not None:
                row = compare(case, folder)
                print_row(row)
                failed |= bool(row[-1])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
