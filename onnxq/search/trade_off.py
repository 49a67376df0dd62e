"""Accuracy against latency and size: points of the files that were tried."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A file that was tried.

    name     description of the file
    sqnr_db  SQNR of the outputs, dB
    latency  latency relative to float
    size     size relative to float
    kept     whether the file was kept
    drop     drop of the task's metric
    """

    name: str
    sqnr_db: float | None
    latency: float | None
    size: float
    kept: bool
    drop: float | None = None
