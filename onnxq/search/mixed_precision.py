"""Mixed precision: where the outputs are too far from float, leave the nodes that cause the noise in float.

The noise that each node puts on each part of the outputs is measured: the noise of the node quantized alone, or the noise
that goes away without it. Noise powers add up well enough to plan with. Nodes go back to float in the order of the noise
they remove per time they cost, until every part of the outputs, or the task's metric, holds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import MAX_DB
from onnxq.search.settings import SearchSettings
from onnxq.types import Array

T = TypeVar("T")
Judge = Callable[[frozenset[str]], Sequence[float]]
"""Noise / signal of each part of the outputs with the named nodes in float."""
DEFAULTS = SearchSettings()


@dataclass(frozen=True)
class Load:
    """Cost of leaving a node in float.

    macs, weights  the node's shares of all planned nodes'
    time           growth of the planned nodes' expected time, a share
    """

    macs: float
    weights: float
    time: float

    @property
    def cost(self) -> float:
        """Time, and size to a tenth; never zero, for conversions cost something too."""
        return max(self.time, 0.0) + 0.1 * self.weights + 1e-3

    def __add__(self, other: "Load") -> "Load":
        return Load(self.macs + other.macs, self.weights + other.weights, self.time + other.time)


NOTHING, WITHOUT_LIMIT = Load(0.0, 0.0, 0.0), Load(math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Work:
    """Nodes that may be left in float, and their cost.

    products   products and convolutions, by name, in the order of the graph
    functions  groups of elementwise nodes that run on integers only between products
    nodes      number of nodes of the model
    values     values of the smallest part of the outputs over the samples on which nodes are measured
    """

    products: Mapping[str, Load]
    functions: Mapping[tuple[str, ...], Load] = field(default_factory=dict)
    nodes: int = 0
    values: int = 0

    @property
    def order(self) -> list[str]:
        """All names: products first."""
        return [*self.products, *(name for names in self.functions for name in names)]


@dataclass(frozen=True)
class Goal:
    """The condition that the outputs have to meet.

    target_db  SQNR that each part of the outputs is expected to keep on fresh samples
    asked      whether the user asked for it: then as many nodes go back as it takes
    drop       fall of the metric with nodes in float
    max_drop   largest fall allowed; with a metric, both conditions have to hold
    close_db   overshoot that is close enough where nobody asked
    """

    target_db: float = DEFAULTS.target_db
    asked: bool = False
    drop: Callable[[frozenset[str]], float] | None = None
    max_drop: float = 0.0
    close_db: float = DEFAULTS.close_db

    def step(self, nodes: tuple[str, ...], sqnr_db: float, mac_share: float) -> "Step":
        """Record these nodes in float; measures the metric."""
        return Step(nodes, sqnr_db, mac_share, None if self.drop is None else self.drop(frozenset(nodes)))

    def exceeded(self, step: "Step") -> bool:
        """Tell whether fewer nodes may do: a user's target is met as closely as possible, another roughly."""
        return self.holds(step) and (self.asked or step.sqnr_db > self.target_db + self.close_db)

    def holds(self, step: "Step") -> bool:
        """Tell whether a step meets the condition."""
        return step.sqnr_db >= self.target_db and (step.drop is None or step.drop <= self.max_drop + 1e-9)


@dataclass(frozen=True)
class Step:
    """One set of float nodes that was tried.

    nodes      by name
    sqnr_db    SQNR that fresh samples are expected to keep
    mac_share  the nodes' share of the planned MACs
    drop       fall of the metric; None without one
    """

    nodes: tuple[str, ...]
    sqnr_db: float
    mac_share: float
    drop: float | None


@dataclass(frozen=True)
class Fallback:
    """Nodes left in float for accuracy.

    nodes      by name
    before_db  SQNR of the worst part that fresh samples are expected to keep with everything quantized
    after_db   the same with these nodes in float
    mac_share  the nodes' share of the planned MACs
    steps      every set that was tried, the empty one first
    """

    nodes: tuple[str, ...]
    before_db: float
    after_db: float
    mac_share: float
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Unit:
    """Neighbouring nodes that are measured together, with the noise they cause in each part of the outputs."""

    names: tuple[str, ...]
    load: Load
    noise: Array


def fall_back(
    work: Work,
    quick: Judge,
    judge: Judge,
    before: Sequence[float],
    goal: Goal | None = None,
    settings: SearchSettings = DEFAULTS,
) -> Fallback:
    """Choose the nodes to leave in float.

    Args:
        work: nodes that may be left in float.
        quick: judges over few samples; asked once per unit.
        judge: judges over all validation samples.
        before: noise that `judge` finds with everything quantized.
        goal: condition to meet; the settings' target without one.
        settings: thresholds.
    """
    goal = goal or Goal(settings.target_db, close_db=settings.close_db)
    before_db = decibels(max(before, default=0.0))
    first = goal.step((), before_db, 0.0)
    if goal.holds(first) or len(work.products) < 2:
        return Fallback((), before_db, before_db, 0.0, [first])
    search = _Search(work, quick, judge, goal, settings, [first], np.asarray(before, float))
    chosen, enough = search.grow()
    search.shrink(chosen, enough)
    best = _best(search.steps, goal, settings)
    return Fallback(best.nodes, before_db, best.sqnr_db, best.mac_share, search.steps)


@dataclass(eq=False)
class _Search:
    """The rounds of one fallback: units are added until the goal holds, then halved back.

    steps  every set of float nodes that was tried
    found  noise of the last one, [parts]
    scale  real noise / sum of the units' noise, learnt anew in each round
    """

    work: Work
    quick: Judge
    judge: Judge
    goal: Goal
    settings: SearchSettings
    steps: list[Step]
    found: Array

    def __post_init__(self) -> None:
        self.units = _measure_units(self.work, self.quick, self.settings)
        self.whole = np.sum([unit.noise for unit in self.units], axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = self.found / np.maximum(self.whole, 1e-12)
        self.scale: Array = np.where(np.isfinite(self.found), ratio, 1.0)

    def take(self, units: Sequence[_Unit]) -> Step:
        """Measure the model with these units in float."""
        names = frozenset(name for unit in units for name in unit.names)
        self.found = np.asarray(self.judge(names), float)
        macs = sum(self.work.products[name].macs for name in names if name in self.work.products)
        nodes = tuple(name for name in self.work.order if name in names)
        self.steps.append(self.goal.step(nodes, decibels(self.found.max()), macs))
        return self.steps[-1]

    def grow(self) -> tuple[list[_Unit], int]:
        """Add units round by round; returns them, and the number that did not suffice."""
        goal, settings = self.goal, self.settings
        before_db = self.steps[0].sqnr_db
        whatever = goal.asked or before_db < settings.useless_db
        most = WITHOUT_LIMIT if whatever else Load(math.inf, settings.most_weights, settings.most_time)
        rounds = settings.rounds * (2 if whatever or before_db < settings.ruined_db else 1)
        chosen: list[_Unit] = []
        enough, measured_alone = 0, False
        for _ in range(rounds):
            aim = goal.target_db if goal.drop is None else self.steps[-1].sqnr_db + settings.step_db
            with np.errstate(divide="ignore"):
                excess = self.whole - noise_power(aim) / self.scale
            grown = _grow(chosen, self.units, excess, most)
            if grown == chosen and max(step.sqnr_db for step in self.steps) < settings.ruined_db:
                most = WITHOUT_LIMIT
                grown = _grow(chosen, self.units, excess, most)
            if grown == chosen:
                break
            enough, chosen = len(chosen), grown
            if goal.holds(self.take(chosen)):
                break
            if not measured_alone and self._unexplained(chosen):
                measured_alone = True
                self._measure_alone(chosen)
            self._learn(chosen)
        return chosen, enough

    def _left(self, chosen: Sequence[_Unit]) -> Array:
        """Noise that the units in integers explain."""
        return np.asarray(self.whole - np.sum([unit.noise for unit in chosen], axis=0))

    def _unexplained(self, chosen: Sequence[_Unit]) -> bool:
        """Tell whether the remaining units do not explain the noise of a part that has too much."""
        little = self._left(chosen) <= self.settings.unexplained * self.whole
        return bool(little[self.found > noise_power(self.goal.target_db)].any())

    def _measure_alone(self, chosen: Sequence[_Unit]) -> None:
        """Measure the remaining products alone: without any single one of them the noise stays the same."""
        self.units = [
            unit
            if unit in chosen or unit.names in self.work.functions
            else _measured_alone(unit, self.work, self.quick)
            for unit in self.units
        ]
        self.whole = np.sum([unit.noise for unit in self.units], axis=0)
        self.scale = np.zeros(len(self.whole))

    def _learn(self, chosen: Sequence[_Unit]) -> None:
        """Correct the ratio of the real noise to the sum of the units' noise."""
        with np.errstate(invalid="ignore"):
            least = self.scale * (1.5 if self.goal.drop is None else 1.0)
            self.scale = np.maximum(least, self.found / np.maximum(self._left(chosen), 1e-12))

    def shrink(self, chosen: Sequence[_Unit], enough: int) -> None:
        """Halve the last round's units back for as long as the goal is exceeded."""
        more = len(chosen)
        while more - enough > 1 and self.goal.exceeded(_best(self.steps, self.goal, self.settings)):
            middle = (enough + more) // 2
            enough, more = (enough, middle) if self.goal.holds(self.take(chosen[:middle])) else (middle, more)


def _best(steps: Sequence[Step], goal: Goal, settings: SearchSettings) -> Step:
    """Return the step that holds with the fewest MACs; else the closest one, if it gains enough."""
    holding = [step for step in steps if goal.holds(step)]
    if holding:
        return min(holding, key=lambda step: step.mac_share)
    if goal.drop is not None:
        return min(steps, key=lambda step: step.drop if step.drop is not None else 0.0)
    best = max(steps, key=lambda step: step.sqnr_db)
    gained = best.sqnr_db >= steps[0].sqnr_db + settings.least_gain_db
    return best if goal.asked or gained else steps[0]


def noise_power(decibels: float) -> float:
    """Convert an SQNR in dB to noise / signal."""
    return float(10 ** (-decibels / 10))


def _sum(names: Sequence[str], loads: Mapping[str, Load]) -> Load:
    return sum((loads[name] for name in names), NOTHING)


def _measure_units(work: Work, quick: Judge, settings: SearchSettings) -> list[_Unit]:
    """Measure the noise that each unit adds.

    There are two ways: the noise of a unit quantized alone, or the noise that goes away without it. The first is measured
    precisely. It misses that errors do not average out where a product's result is rounded again on a similar grid: then
    the whole is more than its parts. The second sees that, but is a difference of larger numbers, which few values do not
    tell from chance. Whichever does not explain the noise is followed by the other. For elementwise nodes, which run on
    integers only between products, only the second works.
    """
    groups = grouped(list(work.products), work.nodes, settings=settings)
    products = {tuple(names): _sum(names, work.products) for names in groups}

    def noise(floats: Iterable[str]) -> Array:
        worst: Array = np.full(1, noise_power(-MAX_DB))  # a form that cannot run is worse than any other
        return np.asarray(np.minimum(quick(frozenset(floats)), worst))

    def alone(names: tuple[str, ...]) -> Array:
        return noise(name for name in work.products if name not in names)

    def missing(names: tuple[str, ...]) -> Array:
        return np.asarray(np.maximum(everything - noise(names), 0.0))

    everything = noise(())
    runs = bool((everything < noise_power(-MAX_DB)).all())
    ways = [missing, alone] if work.values >= settings.many_values else [alone, missing]
    worst = everything >= everything.max() * noise_power(settings.worst_db)
    found = {names: np.zeros(len(everything)) for names in products}
    for way in ways if runs else [alone]:
        found = {names: np.maximum(before, way(names)) for names, before in found.items()}
        explained = np.sum(list(found.values()), axis=0) >= settings.explained * everything
        if explained[worst].all():
            break
    found |= {names: missing(names) for names in work.functions} if runs else {}
    loads = {**products, **work.functions}
    return [_Unit(names, loads[names], each) for names, each in found.items()]


def _measured_alone(unit: _Unit, work: Work, quick: Judge) -> _Unit:
    others = frozenset(work.products) - frozenset(unit.names)
    noise = np.minimum(np.asarray(quick(others), float), noise_power(-MAX_DB))
    return _Unit(unit.names, unit.load, noise)


def grouped(
    names: Sequence[T], nodes: int = 0, most: int | None = None, settings: SearchSettings = DEFAULTS
) -> list[Sequence[T]]:
    """Group neighbours so that there are at most `most` groups, and fewer in a model with many nodes."""
    most = settings.most_units if most is None else most
    count = min(len(names), max(settings.least_units, min(most, settings.most_loaded // max(nodes, 1))))
    cuts = [len(names) * i // max(count, 1) for i in range(count + 1)]
    return [names[start:stop] for start, stop in pairwise(cuts)]


def _grow(chosen: list[_Unit], units: list[_Unit], excess: Array, most: Load) -> list[_Unit]:
    """Add units, at least one, until no part has too much noise or more than `most` would be lost.

    The next unit is the one that removes most of the excess noise per cost.
    """
    grown = list(chosen)
    left = [unit for unit in units if unit not in grown]
    while left:
        remaining = excess - np.sum([unit.noise for unit in grown], axis=0) if grown else excess
        wanted = remaining > 0
        if not wanted.any() and len(grown) > len(chosen):
            break
        wanted = wanted if wanted.any() else np.ones(len(excess), bool)
        shares = [unit.noise / np.maximum(excess, 1e-30) for unit in left]
        worth = [float(s[wanted].sum()) / unit.load.cost for s, unit in zip(shares, left, strict=True)]
        unit = left.pop(int(np.argmax(worth)))
        load = sum((one.load for one in grown), unit.load)
        if load.time <= most.time and load.weights <= most.weights:
            grown.append(unit)
    return grown
