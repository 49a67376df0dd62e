"""Minimum cut of a network by maximum flow.

E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks with power estimation",
Soviet Math. Dokl. 11, 1970.
"""

from collections import deque

INFINITE = 1 << 60


class Network:
    """Network with integer capacities; node 0 is the source, node 1 the sink."""

    def __init__(self) -> None:
        self.heads: list[list[int]] = [[], []]
        self.targets: list[int] = []
        self.residual: list[int] = []

    def node(self) -> int:
        """Add a node and return its number."""
        self.heads.append([])
        return len(self.heads) - 1

    def edge(self, start: int, end: int, capacity: float) -> None:
        """Add an edge that costs `capacity` if it leads from the source's side to the sink's."""
        for a, b, residual in ((start, end, min(round(capacity), INFINITE)), (end, start, 0)):
            self.heads[a].append(len(self.targets))
            self.targets.append(b)
            self.residual.append(residual)

    def terminals(self, node: int, from_source: float, to_sink: float) -> None:
        """Add an edge from the source to a node and one from it to the sink.

        What flows through the node alone is left out at once: the cut stays the same.
        """
        incoming, outgoing = (min(round(capacity), INFINITE) for capacity in (from_source, to_sink))
        through = min(incoming, outgoing)
        if incoming > through:
            self.edge(0, node, incoming - through)
        if outgoing > through:
            self.edge(node, 1, outgoing - through)

    def source_side(self) -> set[int]:
        """Return the nodes on the source's side of a minimum cut."""
        levels = self._levels()
        while levels[1] >= 0:
            position = [0] * len(self.heads)
            while self._augment(levels, position):
                pass
            levels = self._levels()
        return {node for node, level in enumerate(levels) if level >= 0}

    def _levels(self) -> list[int]:
        levels = [-1] * len(self.heads)
        levels[0] = 0
        waiting = deque([0])
        while waiting:
            node = waiting.popleft()
            for edge in self.heads[node]:
                target = self.targets[edge]
                if self.residual[edge] and levels[target] < 0:
                    levels[target] = levels[node] + 1
                    waiting.append(target)
        return levels

    def _augment(self, levels: list[int], position: list[int]) -> bool:
        """Push flow along one path of increasing levels; return whether there was one."""
        path: list[int] = []
        node = 0
        while node != 1:
            edges = self.heads[node]
            while position[node] < len(edges):
                edge = edges[position[node]]
                if self.residual[edge] and levels[self.targets[edge]] == levels[node] + 1:
                    break
                position[node] += 1
            if position[node] < len(edges):
                path.append(edges[position[node]])
                node = self.targets[path[-1]]
            elif path:
                node = self.targets[path.pop() ^ 1]
                position[node] += 1
            else:
                return False
        amount = min(self.residual[edge] for edge in path)
        for edge in path:
            self.residual[edge] -= amount
            self.residual[edge ^ 1] += amount
        return True
