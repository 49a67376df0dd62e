"""Where the outputs are too far from float, find the nodes to blame and leave them float.

Each product or convolution is quantized alone and the noise that it alone puts on the outputs is
measured. Noise powers add up well enough to plan with: nodes go back to float in the order of the
noise they take with them for what they cost, until the outputs hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

TARGET_DB = 20.0
"""Outputs that are at least so close to float on held-out samples are left alone."""
LEAST_GAIN_DB = 2.0
"""Nodes stay int8 where leaving them float gains less than this without reaching the target."""
MOST_COST = 0.2
"""Share of the planned MACs, and of the planned weights, that may go back to float ..."""
RUINED_DB, MOST_COST_RUINED = 12.0, 0.9
"""... and the share where the outputs are worse than this, and hardly anything is worth keeping."""
MOST_UNITS = 64
"""Neighbouring nodes are measured together where there are more than so many."""
ROUNDS = 6
REASON = "kept float for accuracy: the outputs are too far from float with it"

Judge = Callable[[frozenset[str]], float]
"""SQNR in dB of the outputs with the named nodes left float."""


@dataclass(frozen=True)
class Load:
    """What a node costs when it is left float: its shares of the planned MACs and weights."""

    macs: float
    weights: float

    @property
    def cost(self) -> float:
        """The larger share; never nothing, for its conversions cost something too."""
        return max(self.macs, self.weights) + 1e-3


@dataclass(frozen=True)
class Fallback:
    """What was left float.

    nodes      by name
    before_db, after_db  SQNR on held-out samples with everything quantized, and with these float
    mac_share  of the planned MACs
    """

    nodes: tuple[str, ...]
    before_db: float
    after_db: float
    mac_share: float


@dataclass(frozen=True)
class _Unit:
    names: tuple[str, ...]
    macs: float
    weights: float
    noise: float

    @property
    def worth(self) -> float:
        return self.noise / Load(self.macs, self.weights).cost


def fall_back(loads: Mapping[str, Load], quick: Judge, judge: Judge, before_db: float) -> Fallback:
    """Choose the nodes to leave float.

    Args:
        loads: of each planned product or convolution, by name, in the order of the graph.
        quick: judges over few samples: it is asked once a unit.
        judge: judges over all held-out samples.
        before_db: what `judge` says with everything quantized.
    """
    units = [_measured(names, loads, quick) for names in _grouped(list(loads))]
    ranked = sorted(units, key=lambda unit: unit.worth, reverse=True)
    best: tuple[tuple[str, ...], float] = (), before_db
    chosen: list[_Unit] = []
    whole = sum(unit.noise for unit in units)
    most = MOST_COST if before_db >= RUINED_DB else MOST_COST_RUINED
    scale = 1.0  # real noise / the sum of its parts, learnt round by round
    for _ in range(ROUNDS):
        grown = _grow(chosen, ranked, whole - _noise(TARGET_DB) / scale, most)
        if grown == chosen:
            break
        chosen = grown
        names = frozenset(name for unit in chosen for name in unit.names)
        found = judge(names)
        if found > best[1]:
            best = tuple(name for name in loads if name in names), found
        if found >= TARGET_DB:
            break
        left = whole - sum(unit.noise for unit in chosen)
        scale = max(scale * 1.5, _noise(found) / max(left, 1e-12))
    if best[1] < min(TARGET_DB, before_db + LEAST_GAIN_DB):
        best = (), before_db
    return Fallback(best[0], before_db, best[1], sum(loads[name].macs for name in best[0]))


def _noise(decibels: float) -> float:
    return float(10 ** (-decibels / 10))


def _measured(names: Sequence[str], loads: Mapping[str, Load], quick: Judge) -> _Unit:
    others = frozenset(name for name in loads if name not in names)
    macs, weights = sum(loads[name].macs for name in names), sum(loads[name].weights for name in names)
    return _Unit(tuple(names), macs, weights, _noise(quick(others)))


def _grouped(names: list[str]) -> list[list[str]]:
    count = min(len(names), MOST_UNITS)
    cuts = [len(names) * i // max(count, 1) for i in range(count + 1)]
    return [names[start:stop] for start, stop in pairwise(cuts)]


def _grow(chosen: list[_Unit], ranked: list[_Unit], excess: float, most: float) -> list[_Unit]:
    """More units, at least one, until the excess of noise is gone or more than `most` would be lost."""
    grown = list(chosen)
    for unit in ranked:
        if sum(one.noise for one in grown) >= excess and len(grown) > len(chosen):
            break
        if unit in grown:
            continue
        macs, weights = sum(one.macs for one in grown) + unit.macs, sum(one.weights for one in grown) + unit.weights
        if max(macs, weights) <= most:
            grown.append(unit)
    return grown
