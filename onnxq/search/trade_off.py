"""Accuracy against latency and size: the points of files that were tried."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A file that was tried: outputs in dB, latency and size relative to float, whether it was kept, by how much the metric falls."""

    name: str
    sqnr_db: float | None
    latency: float | None
    size: float
    kept: bool
    drop: float | None = None
