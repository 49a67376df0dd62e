"""Nodes that stay float, grouped by operator and reason."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatNodes:
    """Nodes of one type that stay float for one reason.

    op_type  operator type
    reason   text of the reason
    macs     sum of their MACs
    names    names of the nodes
    """

    op_type: str
    reason: str
    macs: int
    names: list[str]

    @staticmethod
    def group(nodes: Iterable[tuple[str, str, str, int]]) -> "list[FloatNodes]":
        """Group nodes, given as (op_type, name, reason, macs); most MACs come first."""
        groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for op_type, name, reason, macs in nodes:
            groups.setdefault((op_type, reason), []).append((name, macs))
        rows = [
            FloatNodes(*key, sum(m for _, m in items), [n for n, _ in items]) for key, items in groups.items()
        ]
        return sorted(rows, key=lambda row: (-row.macs, -len(row.names), row.op_type))
