"""Nodes that stay float, grouped by operator and reason."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatNodes:
    """Nodes of one type that stayed float for one reason, with their MACs."""

    op_type: str
    reason: str
    macs: int
    names: list[str]

    @staticmethod
    def group(nodes: Iterable[tuple[str, str, str, int]]) -> "list[FloatNodes]":
        """Group (op_type, name, reason, macs), most MACs first."""
        groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for op_type, name, reason, macs in nodes:
            groups.setdefault((op_type, reason), []).append((name, macs))
        rows = [
            FloatNodes(*key, sum(m for _, m in items), [n for n, _ in items]) for key, items in groups.items()
        ]
        return sorted(rows, key=lambda row: (-row.macs, -len(row.names), row.op_type))
