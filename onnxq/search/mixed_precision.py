"""Mixed precision: leave the nodes in float that cause most of the noise in the outputs.

The sensitivity of each part of the outputs to each node is measured: the noise of the node quantized alone,
or the noise that disappears with the node in float. Noise powers add up closely enough to plan with. Nodes
go back to float in the order of noise removed per time lost, until every part of the outputs, or the task's
metric, meets the target.
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
MeasureNoise = Callable[[frozenset[str]], Sequence[float]]
"""Noise / signal of each part of the outputs with the named nodes in float."""
DEFAULTS = SearchSettings()


@dataclass(frozen=True)
class FloatCost:
    """Cost of leaving a node in float.

    macs     the node's share of the MACs of all planned nodes
    weights  the node's share of their weights
    time     growth of their expected time, a share
    """

    macs: float
    weights: float
    time: float

    @property
    def total(self) -> float:
        """Time plus a tenth of the size; never zero, because conversions cost something too."""
        return max(self.time, 0.0) + 0.1 * self.weights + 1e-3

    def __add__(self, other: "FloatCost") -> "FloatCost":
        return FloatCost(self.macs + other.macs, self.weights + other.weights, self.time + other.time)


NO_COST, NO_LIMIT = FloatCost(0.0, 0.0, 0.0), FloatCost(math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class FallbackNodes:
    """Nodes that may be left in float, and their cost.

    products     products and convolutions by name, in the order of the graph
    elementwise  groups of elementwise nodes, which are int8 only between products
    model_nodes  number of nodes of the model
    values       number of values of the smallest part of the outputs over the measured samples
    """

    products: Mapping[str, FloatCost]
    elementwise: Mapping[tuple[str, ...], FloatCost] = field(default_factory=dict)
    model_nodes: int = 0
    values: int = 0

    @property
    def names(self) -> list[str]:
        """All names, products first."""
        return [*self.products, *(name for names in self.elementwise for name in names)]


@dataclass(frozen=True)
class Goal:
    """The condition that the outputs have to meet.

    target_db  SQNR that each part of the outputs is expected to keep on new samples
    asked      whether the user set it: then nothing limits the number of nodes in float
    drop       measures the drop of the metric with nodes in float
    max_drop   largest drop allowed; with a metric, both conditions have to hold
    close_db   overshoot that is accepted where the target is not the user's
    """

    target_db: float = DEFAULTS.target_db
    asked: bool = False
    drop: Callable[[frozenset[str]], float] | None = None
    max_drop: float = 0.0
    close_db: float = DEFAULTS.close_db

    def step(self, nodes: tuple[str, ...], sqnr_db: float, mac_share: float) -> "Step":
        """Record a set of nodes in float and measure the metric with it."""
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

    nodes      names
    sqnr_db    SQNR that is expected on new samples, dB
    mac_share  share of the planned MACs
    drop       drop of the metric; None without one
    """

    nodes: tuple[str, ...]
    sqnr_db: float
    mac_share: float
    drop: float | None


@dataclass(frozen=True)
class Fallback:
    """Nodes left in float for accuracy.

    nodes      names
    before_db  SQNR of the worst part that is expected on new samples with everything quantized, dB
    after_db   the same with these nodes in float
    mac_share  share of the planned MACs
    steps      every set that was tried, the empty one first
    """

    nodes: tuple[str, ...]
    before_db: float
    after_db: float
    mac_share: float
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Group:
    """Neighbouring nodes that are measured together, with their noise in each part of the outputs."""

    names: tuple[str, ...]
    cost: FloatCost
    noise: Array


def fall_back(
    nodes: FallbackNodes,
    measure_few: MeasureNoise,
    measure_all: MeasureNoise,
    before: Sequence[float],
    goal: Goal | None = None,
    settings: SearchSettings = DEFAULTS,
) -> Fallback:
    """Choose the nodes to leave in float.

    Args:
        nodes: nodes that may be left in float.
        measure_few: measures on a few samples; called once for each group of nodes.
        measure_all: measures on all validation samples.
        before: noise that `measure_all` finds with everything quantized.
        goal: condition to meet; by default the target of the settings.
        settings: thresholds.
    """
    goal = goal or Goal(settings.target_db, close_db=settings.close_db)
    before_db = decibels(max(before, default=0.0))
    first = goal.step((), before_db, 0.0)
    if goal.holds(first) or len(nodes.products) < 2:
        return Fallback((), before_db, before_db, 0.0, [first])
    search = _Search(nodes, measure_few, measure_all, goal, settings, [first], np.asarray(before, float))
    chosen, too_few = search.grow()
    search.shrink(chosen, too_few)
    best = _best(search.steps, goal, settings)
    return Fallback(best.nodes, before_db, best.sqnr_db, best.mac_share, search.steps)


@dataclass(eq=False)
class _Search:
    """The rounds of one fallback: groups are added until the goal holds; then the needless ones go.

    steps  every set of float nodes that was tried
    noise  noise measured for the last set, [parts]
    total  sum of the noise of all groups, [parts]
    scale  measured noise / sum of the groups' noise, estimated again in each round, [parts]
    """

    nodes: FallbackNodes
    measure_few: MeasureNoise
    measure_all: MeasureNoise
    goal: Goal
    settings: SearchSettings
    steps: list[Step]
    noise: Array

    def __post_init__(self) -> None:
        self.groups = _measure_groups(self.nodes, self.measure_few, self.settings)
        self.total = np.sum([group.noise for group in self.groups], axis=0)
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = self.noise / np.maximum(self.total, 1e-12)
        self.scale: Array = np.where(np.isfinite(self.noise), ratio, 1.0)

    def measure(self, groups: Sequence[_Group]) -> Step:
        """Measure the model with these groups in float."""
        names = frozenset(name for group in groups for name in group.names)
        self.noise = np.asarray(self.measure_all(names), float)
        products = self.nodes.products
        macs = sum(products[name].macs for name in names if name in products)
        ordered = tuple(name for name in self.nodes.names if name in names)
        self.steps.append(self.goal.step(ordered, decibels(self.noise.max()), macs))
        return self.steps[-1]

    def grow(self) -> tuple[list[_Group], int]:
        """Add groups round by round; return them, and how many of them were too few."""
        goal, settings = self.goal, self.settings
        # limits: none for a user's target or an unusable model
        before_db = self.steps[0].sqnr_db
        unlimited = goal.asked or before_db < settings.unusable_int8_db
        limit = NO_LIMIT if unlimited else FloatCost(math.inf, settings.max_weights, settings.max_time)
        rounds = settings.rounds * (2 if unlimited or before_db < settings.unusable_db else 1)
        chosen: list[_Group] = []
        too_few, measured_alone = 0, False
        for _ in range(min(rounds, settings.max_steps)):
            # groups that remove the excess noise
            aim = goal.target_db if goal.drop is None else self.steps[-1].sqnr_db + settings.step_db
            with np.errstate(divide="ignore"):
                excess = self.total - noise_power(aim) / self.scale
            grown = _grow(chosen, self.groups, excess, limit)
            if grown == chosen and max(step.sqnr_db for step in self.steps) < settings.unusable_db:
                limit = NO_LIMIT
                grown = _grow(chosen, self.groups, excess, limit)
            if grown == chosen:
                break
            # the noise with them in float
            too_few, chosen = len(chosen), grown
            if goal.holds(self.measure(chosen)):
                break
            # a better estimate for the next round
            if not measured_alone and self._unexplained(chosen):
                measured_alone = True
                self._measure_alone(chosen)
            self._update_scale(chosen)
        return chosen, too_few

    def _remaining(self, chosen: Sequence[_Group]) -> Array:
        """Return the sum of the noise of the groups that stay int8, [parts]."""
        return np.asarray(self.total - np.sum([group.noise for group in chosen], axis=0))

    def _unexplained(self, chosen: Sequence[_Group]) -> bool:
        """Tell whether the remaining groups do not explain the noise of a part that misses the target."""
        little = self._remaining(chosen) <= self.settings.min_remaining * self.total
        return bool(little[self.noise > noise_power(self.goal.target_db)].any())

    def _measure_alone(self, chosen: Sequence[_Group]) -> None:
        """Measure the remaining products alone: a single one of them in float does not change the noise."""
        self.groups = [
            group
            if group in chosen or group.names in self.nodes.elementwise
            else _measured_alone(group, self.nodes, self.measure_few)
            for group in self.groups
        ]
        self.total = np.sum([group.noise for group in self.groups], axis=0)
        self.scale = np.zeros(len(self.total))

    def _update_scale(self, chosen: Sequence[_Group]) -> None:
        """Correct the ratio of the measured noise to the sum of the groups' noise."""
        with np.errstate(invalid="ignore"):
            least = self.scale * (1.5 if self.goal.drop is None else 1.0)
            self.scale = np.maximum(least, self.noise / np.maximum(self._remaining(chosen), 1e-12))

    def shrink(self, chosen: Sequence[_Group], too_few: int) -> None:
        """Return groups to int8 while the goal is exceeded, and measure each set, as groups interact.

        The groups of the last round are needed; the `too_few` of earlier rounds may not be, so they are tried
        first, all at once. Then fewer are tried, those that remove least noise per cost first.
        """
        kept = list(chosen)
        undecided = [
            *sorted(kept[:too_few], key=self._worth),
            *sorted(kept[too_few:], key=self._worth),
        ]
        size = too_few or (len(undecided) + 1) // 2
        while undecided and len(kept) > 1 and len(self.steps) <= self.settings.max_steps:
            if not self.goal.exceeded(_best(self.steps, self.goal, self.settings)):
                break
            returned = undecided[:size]
            fewer = [group for group in kept if group not in returned]
            if fewer and self.goal.holds(self.measure(fewer)):
                kept, undecided = fewer, undecided[size:]
                size = max(1, min(2 * size, len(undecided) // 2))
            elif len(returned) == 1:
                del undecided[0]
            else:
                size = max(1, min(size, len(undecided)) // 2)

    def _worth(self, group: _Group) -> float:
        """Return the share of the noise that a group in float removes, per cost."""
        shares = group.noise / np.maximum(self.total, 1e-30)
        return float(shares.sum()) / group.cost.total


def _best(steps: Sequence[Step], goal: Goal, settings: SearchSettings) -> Step:
    """Return the step that meets the goal with the fewest MACs; else the closest one, if it gains enough."""
    holding = [step for step in steps if goal.holds(step)]
    if holding:
        return min(holding, key=lambda step: step.mac_share)
    if goal.drop is not None:
        return min(steps, key=lambda step: step.drop if step.drop is not None else 0.0)
    best = max(steps, key=lambda step: step.sqnr_db)
    gained = best.sqnr_db >= steps[0].sqnr_db + settings.min_gain_db
    return best if goal.asked or gained else steps[0]


def noise_power(decibels: float) -> float:
    """Convert an SQNR in dB to noise / signal."""
    return float(10 ** (-decibels / 10))


def _sum(names: Sequence[str], costs: Mapping[str, FloatCost]) -> FloatCost:
    return sum((costs[name] for name in names), NO_COST)


def _measure_groups(nodes: FallbackNodes, measure: MeasureNoise, settings: SearchSettings) -> list[_Group]:
    """Measure the noise that each group of nodes adds.

    There are two ways:
    - Quantize the group alone. This is precise. It misses errors that do not average out because a product's
      result is rounded again on a similar grid: there the total exceeds the sum of its parts.
    - Leave the group in float and take the difference. This includes such errors, but it is a difference of
      larger numbers, and with few values it is mostly chance.

    If the first way tried does not explain the noise, the other follows. Elementwise nodes are int8 only
    between products, so only the second way works for them.
    """
    parts = grouped(list(nodes.products), nodes.model_nodes, settings=settings)
    products = {tuple(names): _sum(names, nodes.products) for names in parts}

    def noise_with(floats: Iterable[str]) -> Array:
        cannot_run: Array = np.full(1, noise_power(-MAX_DB))
        return np.asarray(np.minimum(measure(frozenset(floats)), cannot_run))

    def alone(names: tuple[str, ...]) -> Array:
        return noise_with(name for name in nodes.products if name not in names)

    def difference(names: tuple[str, ...]) -> Array:
        return np.asarray(np.maximum(everything - noise_with(names), 0.0))

    everything = noise_with(())
    runs = bool((everything < noise_power(-MAX_DB)).all())
    ways = [difference, alone] if nodes.values >= settings.reliable_values else [alone, difference]
    # products, one way after the other
    worst = everything >= everything.max() * noise_power(settings.worst_db)
    found = {names: np.zeros(len(everything)) for names in products}
    for way in ways if runs else [alone]:
        found = {names: np.maximum(before, way(names)) for names, before in found.items()}
        explained = np.sum(list(found.values()), axis=0) >= settings.min_explained * everything
        if explained[worst].all():
            break
    # elementwise nodes
    found |= {names: difference(names) for names in nodes.elementwise} if runs else {}
    costs = {**products, **nodes.elementwise}
    return [_Group(names, costs[names], noise) for names, noise in found.items()]


def _measured_alone(group: _Group, nodes: FallbackNodes, measure: MeasureNoise) -> _Group:
    others = frozenset(nodes.products) - frozenset(group.names)
    noise = np.minimum(np.asarray(measure(others), float), noise_power(-MAX_DB))
    return _Group(group.names, group.cost, noise)


def grouped(
    names: Sequence[T], model_nodes: int = 0, most: int | None = None, settings: SearchSettings = DEFAULTS
) -> list[Sequence[T]]:
    """Divide names into at most `most` groups of neighbours, fewer in a model with many nodes."""
    most = settings.max_groups if most is None else most
    loadable = settings.max_loaded_nodes // max(model_nodes, 1)
    count = min(len(names), max(settings.min_groups, min(most, loadable)))
    cuts = [len(names) * i // max(count, 1) for i in range(count + 1)]
    return [names[start:stop] for start, stop in pairwise(cuts)]


def _grow(chosen: list[_Group], groups: list[_Group], excess: Array, limit: FloatCost) -> list[_Group]:
    """Add groups, at least one, until no part has excess noise or the cost reaches the limit.

    The next group is always the one that removes most excess noise per cost.
    """
    grown = list(chosen)
    others = [group for group in groups if group not in grown]
    while others:
        remaining = excess - np.sum([group.noise for group in grown], axis=0) if grown else excess
        wanted = remaining > 0
        if not wanted.any() and len(grown) > len(chosen):
            break
        wanted = wanted if wanted.any() else np.ones(len(excess), bool)
        shares = [group.noise / np.maximum(excess, 1e-30) for group in others]
        worth = [float(s[wanted].sum()) / group.cost.total for s, group in zip(shares, others, strict=True)]
        group = others.pop(int(np.argmax(worth)))
        cost = sum((each.cost for each in grown), group.cost)
        if cost.time <= limit.time and cost.weights <= limit.weights:
            grown.append(group)
    return grown
