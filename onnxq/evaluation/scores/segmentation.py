"""Segmentation: mean intersection over union (mIoU) of the classes in the masks."""

from pathlib import Path

import numpy as np

from onnxq.data.images import open_image
from onnxq.data.reading import check_bytes, library_errors
from onnxq.errors import DataError
from onnxq.evaluation.scores.classification import is_classes
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, pick
from onnxq.types import Array

IGNORED = 255
"""Ignored class index in masks (borders in Pascal VOC)."""
CLASSES = 256


def segmentation(options: ScoreOptions) -> list[Score]:
    """Make mIoU; a label is the path of a mask of class indices, relative to the labels file."""

    def contribution(case: Case) -> Array | None:
        if not case.label:
            return None
        mask = _read_mask(
            (options.labels.parent if options.labels is not None else Path()) / case.label, case.name
        )
        classes, found = _class_map(case, options)
        found = _resized(found, mask.shape)
        valid = mask != IGNORED
        if mask[valid].max(initial=0) >= classes:
            raise DataError(
                f"sample {case.name}: the mask has class {mask[valid].max()}, the output only {classes} "
                "classes: correct the mask or choose another --class-axis"
            )
        sets = found[valid], mask[valid], mask[valid & (mask == found)]
        return np.concatenate([np.bincount(each, minlength=classes) for each in sets])

    return [Score("mIoU", contribution, _miou)]


def mask_agreement(options: ScoreOptions) -> list[Score]:
    """Make mIoU between the class maps of a model and of the float model."""

    def contribution(case: Case) -> Array:
        (classes, found), (_, wanted) = _class_map(case, options), _class_map(case.of_float(), options)
        sets = found, wanted, wanted[wanted == found]
        return np.concatenate([np.bincount(each.ravel(), minlength=classes) for each in sets])

    return [Score("mask IoU", contribution, _miou)]


def _miou(rows: Array) -> float:
    found, wanted, both = rows.sum(0).reshape(3, -1)
    occurs = wanted > 0
    return float((both[occurs] / (found + wanted - both)[occurs]).mean()) if occurs.any() else 0.0


def _class_map(case: Case, options: ScoreOptions) -> tuple[int, Array]:
    """Return the number of classes and a [height, width] class map, from scores or class indices."""
    output, classes = pick(case, options), CLASSES
    if output.dtype.kind == "f":
        axis = 1 if options.class_axis is None else options.class_axis
        is_classes(output, axis)
        classes, output = output.shape[axis], output.argmax(axis)
    output = (
        output.reshape(output.shape[-2:])
        if output.ndim >= 2 and output.size == np.prod(output.shape[-2:])
        else output
    )
    if output.ndim != 2:
        raise DataError(
            f"the class map has shape {list(output.shape)}, expected [height, width]: choose --output or "
            "--class-axis"
        )
    return classes, output.astype(np.int64)


def _read_mask(path: Path, name: str) -> Array:
    with library_errors(
        f"sample {name}: cannot read mask {path}", "correct the labels or save the mask again"
    ):
        if path.suffix == ".npy":
            mask = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        else:
            with open_image(path, str(path)) as image:
                mask = np.asarray(image)
    check_bytes(str(path), mask.size * np.dtype(np.int64).itemsize)
    if (
        mask.ndim != 2
        or mask.dtype.kind not in "ui"
        or mask.min(initial=0) < 0
        or mask.max(initial=0) >= CLASSES
    ):
        raise DataError(
            f"sample {name}: mask {path} is {mask.dtype}{list(mask.shape)}: save it as [height, width] of "
            "class indices 0..255"
        )
    return np.asarray(mask, np.int64)


def _resized(found: Array, shape: tuple[int, ...]) -> Array:
    """Resize a class map to the size of the mask by nearest pixel centre."""
    rows, columns = (
        ((np.arange(want) + 0.5) * have / want).astype(int)
        for want, have in zip(shape, found.shape, strict=True)
    )
    return np.asarray(found[rows[:, None], columns])
