"""Observation of a model: the values to compare, found once from the float model, and comparisons at them."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from onnxq.comparison.caches import CacheError, find_caches
from onnxq.comparison.decisions import Decisions
from onnxq.comparison.errors import OutputErrors, decibels
from onnxq.comparison.feedback import Feedback, evenly
from onnxq.comparison.parts import Part, Seen, find_parts
from onnxq.comparison.taps import Selection, Tap, find_selections, find_taps
from onnxq.graph.edit import Names
from onnxq.graph.macs import ShapeByName, concrete_shapes
from onnxq.runtime.disk_list import DiskList
from onnxq.runtime.machine import available_cores
from onnxq.runtime.memory import release_freed_memory
from onnxq.runtime.parallel import in_order
from onnxq.runtime.random_seeds import unseeded_nodes
from onnxq.runtime.sessions import Tuning, open_session, run
from onnxq.types import Array, Feeds

SEEN = 16
"""Samples whose values show the parts of outputs."""
IN_FLIGHT_VALUES, MOST_WORKERS = 1 << 25, 8
"""Most values around the largest nodes of samples that run side by side, and most such samples."""
PLANNED_VALUES = 1 << 22
"""Values around the largest node up to which a session may plan its memory as one block, beside the first
run's."""


@dataclass(frozen=True)
class Observation:
    """The places where two forms of a model are compared.

    taps        one for each output, or for each value in front of the selection that an output comes from
    outer       parts of the model's results: the outputs, or the values in front of a selection
    inner       the same in front of a final Softmax
    selections  nodes that select by computed values
    feedback    outputs that are inputs of the next sample
    caches      outputs that are caches, each as one part; they are none of the parts above
    workers     number of samples that run side by side, each on its share of the cores
    largest     number of values around the largest node
    """

    taps: tuple[Tap, ...]
    outer: tuple[Part, ...]
    inner: tuple[Part, ...]
    selections: tuple[Selection, ...] = ()
    feedback: Feedback = field(default_factory=Feedback)
    caches: tuple[Part, ...] = ()
    workers: int = 1
    largest: int = 0

    @property
    def has_final_softmax(self) -> bool:
        """Whether an output comes from a Softmax; candidates are then compared in front of it."""
        return any(tap.node is not None and not tap.selected for tap in self.taps)

    @property
    def plain(self) -> bool:
        """Whether the outputs alone are compared."""
        return not self.selections and all(tap.node is None for tap in self.taps)

    def fits(self, model: ir.Model) -> bool:
        """Check that a model has all nodes in front of which values are compared."""
        return all(tap.found(model) is not None for tap in self.taps)

    def opened(self, model: ir.Model) -> "Opened":
        """Return a copy of a form of the model with all compared values among its outputs.

        Where the outputs alone are compared, it is the form itself.
        """
        return Opened.of(model if self.plain else model.clone(), self)

    def session(
        self,
        opened: "Opened",
        *,
        optimize: bool = True,
        integer_kernels: bool = True,
        threads: int | None = None,
    ) -> ort.InferenceSession:
        """Open a session of an opened form for `run_all`, with `threads` or those that its workers leave."""
        plans = self.largest <= PLANNED_VALUES
        if not plans:
            release_freed_memory()  # that of earlier sessions
        threads = threads or max(1, available_cores() // self.workers)
        return open_session(
            opened.model,
            optimize=optimize,
            threads=threads,
            tuning=Tuning(patterns=plans, spin=False, integer_kernels=integer_kernels),
        )


@dataclass(frozen=True)
class Opened:
    """A model whose outputs are its own and the observed values.

    own          number of the model's own outputs, the first ones
    inner, outer  output index of each tap's value
    selections   output index of each selection's indices, None where this form lacks the node
    """

    model: ir.Model
    own: int
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    selections: tuple[int | None, ...]

    @staticmethod
    def of(copy: ir.Model, observation: Observation) -> "Opened":
        """Add all compared values to a model's outputs, in place."""
        own = len(copy.graph.outputs)
        inner = [tap.inner(copy) for tap in observation.taps]
        outer = [tap.outer(copy) for tap in observation.taps]
        nodes = {node.name: node for node in copy.graph}
        chosen = [
            nodes[each.node].outputs[each.slot] if each.node in nodes else None
            for each in observation.selections
        ]
        compared = dict.fromkeys([*inner, *outer, *(value for value in chosen if value is not None)])
        unnamed = [value for value in compared if not value.name]
        if unnamed:
            names = Names(copy)
            for value in unnamed:
                value.name = names.fresh("selected")
        for value in compared:
            if value not in copy.graph.outputs:
                copy.graph.outputs.append(value)
        values = list(copy.graph.outputs)
        indices = tuple(None if value is None else values.index(value) for value in chosen)
        return Opened(copy, own, tuple(map(values.index, inner)), tuple(map(values.index, outer)), indices)


def observe(
    model: ir.Model, feeds: Sequence[Feeds], feedback: Feedback | None = None, *, at_outputs: bool = False
) -> Observation:
    """Find the values to compare; see `observe_values`."""
    return observe_values(model, feeds, feedback, at_outputs=at_outputs)[0]


def observe_values(
    model: ir.Model, feeds: Sequence[Feeds], feedback: Feedback | None = None, *, at_outputs: bool = False
) -> tuple[Observation, "DiskList[Observed]"]:
    """Find the values to compare; return them for `SEEN` samples or fewer, evenly spaced, too.

    Args:
        model: the normalized float model.
        feeds: some samples; more of them make parts of different scale more certain.
        feedback: the model's states.
        at_outputs: compare the outputs alone, never values in front of a Softmax or selection.
    """
    taps = (
        tuple(find_taps(model))
        if not at_outputs
        else tuple(Tap(i, value.name or "") for i, value in enumerate(model.graph.outputs))
    )
    selections = () if at_outputs else tuple(find_selections(model))
    shapes = concrete_shapes(model, feeds[0]) if feeds else {}
    feedback = feedback or Feedback()
    largest = _largest(model, shapes)
    workers = _workers(model, largest, feedback)
    first = Observation(taps, (), (), selections, feedback, (), workers, largest)
    seen, forms = _seen(first, model, feeds)
    caches = _caches(feedback.pairs, feeds, forms, taps)
    parts = {
        level: _parts(values, shapes, _Samples(seen, forms, level), taps, {part.value for part in caches})
        for level, values in {
            "inner": [tap.inner(model) for tap in taps],
            "outer": [tap.outer(model) for tap in taps],
        }.items()
    }
    return replace(first, inner=parts["inner"], outer=parts["outer"], caches=caches), seen


def _caches(
    pairs: Mapping[str, int], feeds: Sequence[Feeds], forms: Sequence["_Forms"], taps: Sequence[Tap]
) -> tuple[Part, ...]:
    """Return the outputs that are caches, each as a part."""
    if not pairs:
        return ()
    given = [{name: np.shape(each[name]) for name in pairs} for each in evenly(feeds, SEEN)]
    place = {tap.output: i for i, tap in enumerate(taps) if tap.node is None}
    known = {name: place[index] for name, index in pairs.items() if index in place}
    found = find_caches(known, given, [form["outer"] for form in forms])
    return tuple(Part(i, taps[i].name) for i in sorted(found))


_Forms = dict[str, list[tuple[int, ...] | None]]
"""Shapes of a sample's values, by the name of the list in `Observed`; None for values that are not float."""


def _seen(
    observation: Observation, model: ir.Model, feeds: Sequence[Feeds]
) -> tuple["DiskList[Observed]", list[_Forms]]:
    """Run a few samples; return their values and shapes."""
    opened = observation.opened(model)
    session = observation.session(opened)

    def values_of(number: int) -> Observed:
        return Observed.of(opened, run(session, feeds[number], "a sample"))

    forms: list[_Forms] = []
    runs = in_order(values_of, evenly(range(len(feeds)), SEEN), observation.workers)
    return DiskList(_noted(runs, forms), Observed.arrays), forms


def _noted(runs: "Iterable[Observed]", forms: list[_Forms]) -> "Iterator[Observed]":
    """Pass values on, and note their shapes."""
    for values in runs:
        lists = {"inner": values.inner, "outer": values.outer}
        forms.append(
            {
                level: [
                    each.shape if isinstance(each, np.ndarray) and each.dtype.kind == "f" else None
                    for each in arrays
                ]
                for level, arrays in lists.items()
            }
        )
        yield values


@dataclass(frozen=True)
class _Samples:
    """Observed values of samples at one level, and their shapes."""

    seen: "Sequence[Observed]"
    forms: Sequence[_Forms]
    level: str

    def of(self, number: int) -> Seen | None:
        """Return a tap's values; None where some are not float."""
        shapes = [form[self.level][number] for form in self.forms]
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes):
            return None
        return Seen(known, lambda sample: np.asarray(getattr(self.seen[sample], self.level)[number]))


def _parts(
    values: Sequence[ir.Value],
    shapes: ShapeByName,
    samples: _Samples,
    taps: Sequence[Tap],
    caches: Collection[int],
) -> tuple[Part, ...]:
    """Return the parts of the values of all taps but those of caches."""
    parts: list[Part] = []
    for number, (tap, value) in enumerate(zip(taps, values, strict=True)):
        if number in caches:
            continue
        seen = samples.of(number)
        if tap.node is not None and not tap.selected:  # in front of a Softmax and behind it, one part
            parts.append(Part(number, tap.name))
        elif seen is not None:
            parts += find_parts(value, number, tap.name, shapes, seen)
    return tuple(parts)


def _workers(model: ir.Model, largest: int, feedback: Feedback) -> int:
    """Return how many samples may run side by side: one where their order matters, few where they are large.

    The numbers that a random node draws depend on the order of its runs.
    """
    if feedback.states or unseeded_nodes(model):
        return 1
    return min(available_cores(), MOST_WORKERS, max(1, IN_FLIGHT_VALUES // max(largest, 1)))


def _largest(model: ir.Model, shapes: ShapeByName) -> int:
    """Return the number of values that the node with most of them takes and gives; weights do not count."""

    def values(node: ir.Node) -> int:
        computed = (v for v in (*node.inputs, *node.outputs) if v is not None and not v.is_initializer())
        return sum(math.prod(shapes.get(value.name or "", (0,))) for value in computed)

    return max((values(node) for node in model.graph), default=1)


@dataclass
class Comparison:
    """Comparison of two models over samples: errors, decisions and selections.

    names      of the samples added
    outer      errors at the outputs
    inner      errors in front of a final Softmax; the same object as `outer` without one
    caches     errors of caches
    decisions  by tap number
    same       [entries in both twice, entries in each added], by node of a selection
    """

    observation: Observation
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outer = OutputErrors(self.observation.outer)
        # without a final Softmax the values are the same
        self.inner = (
            OutputErrors(self.observation.inner) if self.observation.has_final_softmax else self.outer
        )
        self.caches = OutputErrors(self.observation.caches)
        self.decisions = {
            number: Decisions(tap.axis)
            for number, tap in enumerate(self.observation.taps)
            if tap.axis is not None
        }
        self.same: dict[str, list[float]] = {each.node: [0.0, 0.0] for each in self.observation.selections}

    def add(self, sample: str, expected: "Observed", found: "Observed") -> None:
        """Add one sample."""
        feedback = self.observation.feedback
        follows = bool(feedback.states) and sample not in feedback.starts and bool(self.names)
        self.names.append(sample)
        self.outer.add(expected.outer, found.outer, follows=follows)
        if self.inner is not self.outer:
            self.inner.add(expected.inner, found.inner, follows=follows)
        self.caches.add(expected.outer, found.outer, follows=follows)
        for number, decisions in self.decisions.items():
            want, have = expected.inner[number], found.inner[number]
            if (
                isinstance(want, np.ndarray)
                and want.dtype.kind == "f"
                and isinstance(have, np.ndarray)
                and have.dtype.kind == "f"
            ):
                decisions.add(want, have)
        for selection, one, other in zip(
            self.observation.selections, expected.selections, found.selections, strict=True
        ):
            if one is not None and other is not None:
                same, of = selection.same(one, other)
                self.same[selection.node][0] += same
                self.same[selection.node][1] += of

    def cache_errors(self) -> list[CacheError]:
        """Return the SQNR of each cache that has a signal, worst first."""
        ratios = self.caches.ratios()
        found = [CacheError(self.caches.parts[i].name, decibels(ratios[i])) for i in self.caches.measured]
        return sorted(found, key=lambda each: each.sqnr_db)

    def selected_alike(self) -> dict[str, float]:
        """Return the share of each selection's entries that both models select, 0..1, by node."""
        return {node: same / of for node, (same, of) in self.same.items() if of}


@dataclass(frozen=True)
class Observed:
    """The observed values of one sample, in lists over taps and over selections."""

    own: Sequence[Array]
    inner: Sequence[Array]
    outer: Sequence[Array]
    selections: Sequence[Array | None]

    @staticmethod
    def of(opened: Opened, values: Sequence[Array]) -> "Observed":
        """Sort the values of a run of an opened form."""
        return Observed(
            values[: opened.own],
            [values[i] for i in opened.inner],
            [values[i] for i in opened.outer],
            [None if i is None else values[i] for i in opened.selections],
        )

    def arrays(self) -> list[Array]:
        """Return all values; one may occur several times."""
        return [*self.own, *self.inner, *self.outer]


def run_all(
    session: ort.InferenceSession,
    opened: Opened,
    samples: Iterable[tuple[str, Feeds]],
    observation: Observation,
    states: list[Sequence[Array] | None] | None = None,
    slot: int = 0,
) -> Iterator[tuple[str, Observed]]:
    """Run samples; yield their values in order. A stateful model gets the state after the sample before.

    Args:
        session: the opened form.
        opened: its outputs.
        samples: names and feeds, read one by one.
        observation: the model's states, and how many samples run side by side.
        states: `states[slot]` keeps the outputs of the last run, for a call that continues the sequence.
        slot: place in `states`.
    """
    kept: list[Sequence[Array] | None] = states if states is not None else [None]
    feedback = observation.feedback

    def values_of(sample: tuple[str, Feeds]) -> tuple[str, Observed]:
        name, given = sample
        values = run(session, feedback.feeds(name, given, kept[slot]), name)
        if feedback.states:
            kept[slot] = values[: opened.own]
        return name, Observed.of(opened, values)

    most = len(samples) if isinstance(samples, Sequence) else observation.workers
    yield from in_order(values_of, samples, min(observation.workers, most))
