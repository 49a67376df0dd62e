"""Where the outputs are too far from float, find the nodes to blame and leave them float.

The noise that each node puts on each part of the outputs is measured: quantized alone, or as what is
less without it. Noise powers add up well enough to plan with: nodes go back to float in the order of
the noise they take with them for what time they cost, until every part, or the task's metric, holds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np

from onnxq.comparison.errors import decibels
from onnxq.comparison.metrics import MAX_DB
from onnxq.types import Array

TARGET_DB = 20.0
"""Outputs that are at least so close to float on held-out samples are left alone."""
LEAST_GAIN_DB = 2.0
"""Nodes stay int8 where leaving them float gains less than this without reaching the target."""
MOST_TIME, MOST_WEIGHTS = 0.5, 0.75
"""What may go back to float: nodes that lengthen the expected time by this share, with this share of the planned weights."""
RUINED_DB, USELESS_DB = 16.0, 12.0
"""Where that does not bring the outputs above the first, or they are below the second, whatever it takes goes back: a file that is of no
use is not fast."""
MOST_UNITS, LEAST_UNITS = 64, 16
"""Neighbouring nodes are measured together where there are more than so many; fewer at a time where a model's nodes are many, ..."""
MOST_LOADED = 64_000
"""... for opening the model takes longer then than running it: so many of its nodes are loaded in all."""
UNEXPLAINED = 0.1
"""Share of the noise below which what is left of the nodes' blame does not explain what is left of the noise."""
MANY_VALUES = 2000
"""Values of a part from which on a difference of two errors is told from chance."""
EXPLAINED, WORST_DB = 0.5, 6.0
"""Share of the noise that the nodes' own has to explain, in each part that is within so many dB of the worst."""
ROUNDS = 6
STEP_DB = 3.0
"""Noise that a round takes away where a metric decides, of which nobody knows beforehand how much it bears."""
CLOSE_DB = 1.0
"""How far beyond a target that nobody asked for is close enough."""
REASON = "kept float for accuracy: the outputs are too far from float with it"
ALONE = "kept float while another is measured alone"
"""Why nodes are float in a form that is only judged: its weights stay as they are, for it will not be stored."""

T = TypeVar("T")
Judge = Callable[[frozenset[str]], Sequence[float]]
"""Noise / signal of each part of the outputs with the named nodes left float."""


@dataclass(frozen=True)
class Load:
    """What a node costs when it is left float.

    macs, weights  its shares of those that are planned
    time           by how much the planned nodes' expected time grows, a share
    """

    macs: float
    weights: float
    time: float

    @property
    def cost(self) -> float:
        """Never nothing, for its conversions cost something too; size counts, but less."""
        return max(self.time, 0.0) + 0.1 * self.weights + 1e-3

    def __add__(self, other: "Load") -> "Load":
        return Load(self.macs + other.macs, self.weights + other.weights, self.time + other.time)


NOTHING, WITHOUT_LIMIT = Load(0.0, 0.0, 0.0), Load(math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Work:
    """What may be left float, and what that costs.

    products   products and convolutions, by name, in the order of the graph
    functions  groups of elementwise nodes that run on integers only between products
    nodes      how many nodes the model has
    values     of the smallest part of the outputs, over the samples that nodes are measured on
    """

    products: Mapping[str, Load]
    functions: Mapping[tuple[str, ...], Load] = field(default_factory=dict)
    nodes: int = 0
    values: int = 0


@dataclass(frozen=True)
class Goal:
    """What has to hold.

    target_db  SQNR of each part of the outputs that fresh samples are expected to keep
    asked      whether a user asked for it: then as many nodes go back as it takes
    drop       by how much the metric falls with nodes left float
    max_drop   how much that may be; if there is a metric, it has to hold too
    """

    target_db: float = TARGET_DB
    asked: bool = False
    drop: Callable[[frozenset[str]], float] | None = None
    max_drop: float = 0.0

    def step(self, nodes: tuple[str, ...], sqnr_db: float, mac_share: float) -> "Step":
        """What is found with these nodes float."""
        return Step(nodes, sqnr_db, mac_share, None if self.drop is None else self.drop(frozenset(nodes)))

    def exceeded(self, step: "Step") -> bool:
        """Whether less would do: of what a user asked for as little as can be, else without hitting it closely."""
        return self.holds(step) and (self.asked or step.sqnr_db > self.target_db + CLOSE_DB)

    def holds(self, step: "Step") -> bool:
        """Whether that is enough."""
        return step.sqnr_db >= self.target_db and (step.drop is None or step.drop <= self.max_drop + 1e-9)


@dataclass(frozen=True)
class Step:
    """Nodes left float, SQNR that fresh samples are expected to keep, their share of the planned MACs, and by how much the metric falls."""

    nodes: tuple[str, ...]
    sqnr_db: float
    mac_share: float
    drop: float | None


@dataclass(frozen=True)
class Fallback:
    """What was left float.

    nodes      by name
    before_db, after_db  SQNR of the worst part that fresh samples are expected to keep, with everything quantized, and with these float
    mac_share  of the planned MACs
    steps      all that was tried, from everything quantized on
    """

    nodes: tuple[str, ...]
    before_db: float
    after_db: float
    mac_share: float
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Unit:
    names: tuple[str, ...]
    load: Load
    noise: Array  # [parts]


def fall_back(
    work: Work, quick: Judge, judge: Judge, before: Sequence[float], goal: Goal | None = None
) -> Fallback:
    """Choose the nodes to leave float.

    Args:
        work: what may be left float.
        quick: judges over few samples: it is asked once a unit.
        judge: judges over all samples that candidates are compared on.
        before: what `judge` says with everything quantized.
        goal: what has to hold; the default without one.
    """
    goal, loads, functions = goal or Goal(), work.products, work.functions
    order = [*loads, *(name for names in functions for name in names)]
    before_db = decibels(max(before, default=0.0))
    steps = [goal.step((), before_db, 0.0)]
    if goal.holds(steps[0]) or len(loads) < 2:
        return Fallback((), before_db, before_db, 0.0, steps)
    found = np.asarray(before, float)

    def take(units: Sequence[_Unit]) -> Step:
        nonlocal found
        names = frozenset(name for unit in units for name in unit.names)
        found = np.asarray(judge(names), float)
        macs = sum(loads[name].macs for name in names if name in loads)
        step = goal.step(tuple(name for name in order if name in names), decibels(found.max()), macs)
        steps.append(step)
        return step

    units = _blamed(work, quick)
    chosen: list[_Unit] = []
    enough = 0  # units without which it did not hold
    whole = np.sum([unit.noise for unit in units], axis=0)
    whatever = goal.asked or before_db < USELESS_DB
    most = WITHOUT_LIMIT if whatever else Load(math.inf, MOST_WEIGHTS, MOST_TIME)
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # real noise / the sum of its parts, learnt round by round
        scale = np.where(np.isfinite(found), found / np.maximum(whole, 1e-12), 1.0)
    again = False
    for _ in range(ROUNDS * (2 if whatever or before_db < RUINED_DB else 1)):
        aim = goal.target_db if goal.drop is None else steps[-1].sqnr_db + STEP_DB
        grown = _grow(chosen, units, whole - noise_power(aim) / scale, most)
        if grown == chosen and max(step.sqnr_db for step in steps) < RUINED_DB:
            most = WITHOUT_LIMIT
            grown = _grow(chosen, units, whole - noise_power(aim) / scale, most)
        if grown == chosen:
            break
        enough, chosen = len(chosen), grown
        step = take(chosen)
        if goal.holds(step):
            break
        left = whole - np.sum([unit.noise for unit in chosen], axis=0)
        if not again and (left <= UNEXPLAINED * whole)[found > noise_power(goal.target_db)].any():
            # nothing more is less without any single node: what each of the rest adds alone tells where to go on
            again = True
            units = [
                unit if unit in chosen or unit.names in work.functions else _alone(unit, work, quick)
                for unit in units
            ]
            whole = np.sum([unit.noise for unit in units], axis=0)
            left = whole - np.sum([unit.noise for unit in chosen], axis=0)
            scale = np.zeros(len(whole))
        with np.errstate(invalid="ignore"):
            scale = np.maximum(scale * (1.5 if goal.drop is None else 1.0), found / np.maximum(left, 1e-12))
    more = len(chosen)
    while more - enough > 1 and (best := _best(steps, goal)) and goal.exceeded(best):
        middle = (enough + more) // 2
        enough, more = (enough, middle) if goal.holds(take(chosen[:middle])) else (middle, more)
    best = _best(steps, goal)
    return Fallback(best.nodes, before_db, best.sqnr_db, best.mac_share, steps)


def _best(steps: Sequence[Step], goal: Goal) -> Step:
    """Of the steps that hold the one with the fewest MACs; else the closest one, if that is worth it."""
    holding = [step for step in steps if goal.holds(step)]
    if holding:
        return min(holding, key=lambda step: step.mac_share)
    if goal.drop is not None:
        return min(steps, key=lambda step: step.drop if step.drop is not None else 0.0)
    best = max(steps, key=lambda step: step.sqnr_db)
    return best if goal.asked or best.sqnr_db >= steps[0].sqnr_db + LEAST_GAIN_DB else steps[0]


def noise_power(decibels: float) -> float:
    """Of an SQNR in dB, as a share of the signal's."""
    return float(10 ** (-decibels / 10))


def _sum(names: Sequence[str], loads: Mapping[str, Load]) -> Load:
    return sum((loads[name] for name in names), NOTHING)


def _blamed(work: Work, quick: Judge) -> list[_Unit]:
    """What each unit adds to the noise.

    Either what it adds quantized alone, or what is less without it. The first is measured well, but where a product's result is
    rounded again behind, on a grid much like its own, errors do not average out and the whole is more than its parts. The second
    sees that, but it is a difference of larger numbers, which few values do not tell from chance. Whichever does not explain the
    noise is followed by the other. Of elementwise nodes, which run on integers only between products, only the second tells.
    """
    products = {
        tuple(names): _sum(names, work.products) for names in grouped(list(work.products), work.nodes)
    }

    def noise(floats: Iterable[str]) -> Array:
        worst: Array = np.full(1, noise_power(-MAX_DB))  # what cannot run is worse than anything
        return np.asarray(np.minimum(quick(frozenset(floats)), worst))

    def alone(names: tuple[str, ...]) -> Array:
        return noise(name for name in work.products if name not in names)

    def missed(names: tuple[str, ...]) -> Array:
        return np.asarray(np.maximum(everything - noise(names), 0.0))

    everything = noise(())
    runs = bool((everything < noise_power(-MAX_DB)).all())
    ways = ([missed, alone] if work.values >= MANY_VALUES else [alone, missed]) if runs else [alone]
    worst = everything >= everything.max() * noise_power(WORST_DB)
    found = {names: np.zeros(len(everything)) for names in products}
    for way in ways:
        found = {names: np.maximum(before, way(names)) for names, before in found.items()}
        if (np.sum(list(found.values()), axis=0) >= EXPLAINED * everything)[worst].all():
            break
    found |= {names: missed(names) for names in work.functions} if runs else {}
    return [_Unit(names, {**products, **work.functions}[names], each) for names, each in found.items()]


def _alone(unit: _Unit, work: Work, quick: Judge) -> _Unit:
    noise = np.minimum(
        np.asarray(quick(frozenset(work.products) - frozenset(unit.names)), float), noise_power(-MAX_DB)
    )
    return _Unit(unit.names, unit.load, noise)


def grouped(names: Sequence[T], nodes: int = 0, most: int = MOST_UNITS) -> list[Sequence[T]]:
    """Neighbours together, so that there are no more than `most`, or fewer in a model of many nodes."""
    count = min(len(names), max(LEAST_UNITS, min(most, MOST_LOADED // max(nodes, 1))))
    cuts = [len(names) * i // max(count, 1) for i in range(count + 1)]
    return [names[start:stop] for start, stop in pairwise(cuts)]


def _grow(chosen: list[_Unit], units: list[_Unit], excess: Array, most: Load) -> list[_Unit]:
    """More units, at least one, until no part has too much noise or more than `most` would be lost.

    The next is the one that takes most of the excess of the parts that have too much, for what it costs.
    """
    grown = list(chosen)
    left = [unit for unit in units if unit not in grown]
    while left:
        remaining = excess - np.sum([unit.noise for unit in grown], axis=0) if grown else excess
        wanted = remaining > 0
        if not wanted.any() and len(grown) > len(chosen):
            break
        wanted = wanted if wanted.any() else np.ones(len(excess), bool)
        worth = [
            float((unit.noise / np.maximum(excess, 1e-30))[wanted].sum()) / unit.load.cost for unit in left
        ]
        unit = left.pop(int(np.argmax(worth)))
        load = sum((one.load for one in grown), unit.load)
        if load.time <= most.time and load.weights <= most.weights:
            grown.append(unit)
    return grown
