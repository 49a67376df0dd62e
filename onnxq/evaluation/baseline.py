"""Baseline: an earlier report of `onnxq eval --json`."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from onnxq.data.reading import read_json
from onnxq.errors import DataError

Numbers = dict[str, float]


def checksum(report: dict[str, Any]) -> str:
    """Compute the SHA-256 of a report, read from JSON or about to be written, without its own checksum."""
    kept = {key: value for key, value in report.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read_baseline(path: Path) -> dict[str, Numbers]:
    """Read metrics, `sqnr_db`, `latency_ratio` and `bytes` by the model's file name, without nulls.

    Raises:
        DataError: The file is not a report of `onnxq eval --json`, or was changed since it was written.
    """
    try:
        report = read_json(path)
        numbers = {Path(score["model"]).name: _numbers(score) for score in report["scores"]}
    except OSError as error:
        raise DataError(
            f"--baseline {path}: cannot read the file: {error.strerror}: check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"--baseline {path}: not a report of onnxq eval --json: create it again with this version"
        ) from error
    if report.get("checksum", checksum(report)) != checksum(report):  # older reports have none
        raise DataError(
            f"--baseline {path}: changed since onnxq eval wrote it: create it again, or remove its 'checksum'"
        )
    return numbers


def _numbers(score: dict[str, Any]) -> Numbers:
    """Return the numbers of a model; raise ValueError or TypeError for one that cannot be."""
    found = {}
    for name, metric in score["metrics"].items():
        found[name] = value = _number(metric["value"])
        low, high = _number(metric.get("low")), _number(metric.get("high"))
        if low is not None and high is not None and low > high:
            raise ValueError(f"{name}: {low} to {high} is no interval of {value}")
    found |= {key: _number(score[key]) for key in ("sqnr_db", "latency_ratio", "bytes")}
    if any((found[key] or 0.0) < 0 for key in ("latency_ratio", "bytes")):
        raise ValueError("a size or a latency below 0")
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
