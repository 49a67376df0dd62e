"""Baseline: an earlier report of `onnxq eval --json`."""

import json
from pathlib import Path

from onnxq.errors import DataError

Numbers = dict[str, float]


def read_baseline(path: Path) -> dict[str, Numbers]:
    """Read metrics, `sqnr_db`, `latency_ratio` and `bytes` by the model's file name, without nulls.

    Raises:
        DataError: The file is not a report of `onnxq eval --json`.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {Path(score["model"]).name: _numbers(score) for score in report["scores"]}
    except OSError as error:
        raise DataError(
            f"--baseline {path}: cannot read the file: {error.strerror}: check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"--baseline {path}: not a report of onnxq eval --json: create it again with this version"
        ) from error


def _numbers(score: dict[str, object]) -> Numbers:
    metrics = score["metrics"]
    if not isinstance(metrics, dict):
        raise TypeError("metrics")
    found = {name: value["value"] for name, value in metrics.items()}
    found |= {key: score[key] for key in ("sqnr_db", "latency_ratio", "bytes")}
    return {name: float(value) for name, value in found.items() if value is not None}
