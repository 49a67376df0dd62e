"""An earlier `onnxq eval --json`, to compare with."""

import json
from pathlib import Path

from onnxq.errors import DataError

Numbers = dict[str, float]


def read_baseline(path: Path) -> dict[str, Numbers]:
    """By the model's file name: the value of each metric, `sqnr_db`, `latency_ratio` and `bytes`, where they were measured.

    Raises:
        DataError: not such a file.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {Path(score["model"]).name: _numbers(score) for score in report["scores"]}
    except OSError as error:
        raise DataError(f"--baseline {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"--baseline {path}: not a report of onnxq eval --json: write it again with this version"
        ) from error


def _numbers(score: dict[str, object]) -> Numbers:
    metrics = score["metrics"]
    if not isinstance(metrics, dict):
        raise TypeError("metrics")
    found = {name: value["value"] for name, value in metrics.items()}
    found |= {key: score[key] for key in ("sqnr_db", "latency_ratio", "bytes")}
    return {name: float(value) for name, value in found.items() if value is not None}
