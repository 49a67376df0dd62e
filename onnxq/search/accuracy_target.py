"""Accuracy targets: leave nodes in float until the outputs, or the task's metric, hold, and weigh what remains."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxq.comparison.metrics import MAX_DB
from onnxq.cost.model import Costs
from onnxq.cost.placement import Savings, place, savings, slowdowns, slower
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError
from onnxq.evaluation.evaluate import EvalOptions, evaluate, evaluated_samples
from onnxq.formats.recipe import Recipe
from onnxq.graph.edit import sizes
from onnxq.graph.files import file_bytes, save
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.plan.plan import Plan
from onnxq.plan.reasons import MEASURING, SLOWER, TOO_NOISY, UNUSABLE, Cause, FloatReason
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.parameters import Parameters
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.sessions import InputSpec
from onnxq.search.candidates import Candidates, Variant
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import Goal, Load, Step, Work, fall_back, grouped
from onnxq.search.references import References
from onnxq.search.settings import SearchSettings
from onnxq.search.trade_off import Point
from onnxq.search.trial import Choice
from onnxq.search.validation import more_references
from onnxq.types import Feeds

FUNCTIONS = frozenset({"HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"})
"""Elementwise operators whose integer kernels round values that are small beside an output's range."""


@dataclass(frozen=True)
class Task:
    """Labelled samples and their scoring: `--max-drop` holds on them."""

    data: Path
    options: EvalOptions

    def check(self, specs: list[InputSpec]) -> None:
        """Open the samples and their labels, long before they are needed.

        Raises:
            DataError: they cannot be read, or do not fit one another or the model.
        """
        evaluated_samples(self.data, specs, read_forms(self.options.preprocess), self.options)

    def drop(self, model: Path, other: Path) -> tuple[str, float]:
        """Return the metric's name and its fall from `model` to `other`.

        The fall is in percentage points for accuracy-like metrics, otherwise in the metric's unit.
        """
        report = evaluate(model, [other], self.data, replace(self.options, latency=False))
        if report.metric is None:
            raise DataError("--max-drop needs a metric: give --labels FILE, or --metric")
        return report.metric, report.scores[1].metrics[report.metric].drop or 0.0


@dataclass(frozen=True, eq=False)
class _Target:
    """What the search for one target works with.

    loads   cost of each planned product in float
    shapes  of the form's values
    costs   cost model of each CPU; empty where no node may stay float for speed
    folder  for files that are measured
    reason  why nodes go back to float
    """

    inputs: Inputs
    settings: SearchSettings
    candidates: Candidates
    references: References
    choice: Choice
    loads: Mapping[str, Load]
    shapes: ShapeByName
    costs: Sequence[Costs]
    folder: Path
    task: Task | None = None
    reason: FloatReason = TOO_NOISY

    @property
    def recipe(self) -> Recipe:
        """The recipe with everything quantized."""
        return self.choice.recipe

    def without(self, names: frozenset[str], reason: FloatReason | None = None) -> Recipe:
        """Return the recipe with these nodes in float, and those between them that conversions make slower then."""
        left = dict.fromkeys(names, reason or self.reason)
        recipe = self.recipe.leaving(left)
        slow = place(recipe.plan, self.shapes, self.costs).floats if self.costs and names else ()
        return self.recipe.leaving({**dict.fromkeys(slow, SLOWER), **left}) if slow else recipe

    def stored(self, names: Sequence[str], file: str) -> Path:
        """Write the file with these nodes in float."""
        path = self.folder / file
        save(self.candidates.model(self.without(frozenset(names))), path)
        return path

    def drop(self, names: frozenset[str]) -> float:
        """Return the fall of the task's metric with these nodes in float."""
        assert self.task is not None
        return self.task.drop(self.inputs.options.model, self.stored(sorted(names), "candidate.onnx"))[1]

    @property
    def goal(self) -> Goal:
        """The condition that the options set."""
        limits = self.inputs.options.limits
        close_db, asked = self.settings.close_db, limits.min_sqnr is not None
        if self.task is None or limits.max_drop is None:
            target = max(self.settings.target_db, limits.min_sqnr or 0.0)
            return Goal(target, asked, close_db=close_db)
        # the metric decides, unless both are asked for
        least = -math.inf if limits.min_sqnr is None else limits.min_sqnr
        return Goal(least, asked=True, drop=self.drop, max_drop=limits.max_drop, close_db=close_db)

    def with_more_samples(self) -> "_Target":
        """Return the same judged by more validation samples."""
        references = more_references(self.inputs, self.references)
        found = references.sqnr_db(self.candidates.model(self.recipe))
        choice = replace(self.choice, kept=replace(self.choice.kept, sqnr_db=found))
        candidates = replace(self.candidates, references=references)
        return replace(self, candidates=candidates, references=references, choice=choice)

    def fallen_back(self) -> Choice:
        """Return the choice with nodes in float until the goal holds, where it does not."""
        if self.choice.kept.sqnr_db is None:
            return self.choice
        before = self.references.judged(
            self.candidates.model(self.without(frozenset())), at_outputs=self.goal.asked
        )
        telling = self.references.telling(before, self.settings.quick)
        elementwise = _functions(self.recipe.plan, self.shapes, self.costs, self.settings)
        work = Work(self.loads, elementwise, len(self.recipe.model.graph), self.references.values(telling))

        def quick(names: frozenset[str]) -> Sequence[float]:
            model = self.candidates.model(self.without(names, MEASURING))
            return self.references.inner_judged(model, telling).noise

        def judge(names: frozenset[str]) -> Sequence[float]:
            model = self.candidates.model(self.without(names))
            return self.references.judged(model, at_outputs=self.goal.asked).bound

        fallback = fall_back(work, quick, judge, before.bound, self.goal, self.settings)
        if not fallback.nodes:
            return replace(self.choice, fallback=fallback if self.goal.asked else None)
        return replace(self.choice, recipe=self.without(frozenset(fallback.nodes)), fallback=fallback)

    def all_float(self, choice: Choice) -> Choice:
        """Return the plain model in float, its weights in half precision where the choice allows it."""
        plain = self.candidates.others[0] if self.candidates.others else self.candidates
        assert choice.fallback is not None
        floats = {**dict.fromkeys(self.loads, SLOWER), **dict.fromkeys(choice.fallback.nodes, self.reason)}
        recipe = replace(choice.recipe, model=plain.variant.model, techniques=()).leaving(floats)
        after = self.references.bound_db(plain.writer.write(recipe, Parameters()))
        fallback = replace(choice.fallback, nodes=tuple(self.loads), mac_share=1.0, after_db=after)
        kept = replace(choice.kept, techniques=())
        return replace(choice, recipe=recipe, kept=kept, fallback=fallback)


def meet_target(
    inputs: Inputs, candidates: Candidates, choice: Choice, loads: Mapping[str, Load], task: Task | None
) -> Choice:
    """Return the choice with as many nodes in float as its outputs, or the task's metric, need."""
    assert candidates.references is not None
    settings, options = candidates.settings, inputs.options
    feeds = check_feeds(inputs.samples.validation[0], inputs.specs)
    shapes = planned_shapes(candidates.variant.model, choice.recipe.plan, feeds)
    costs = inputs.costs if options.skip_slow_nodes else ()
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        target = _Target(
            inputs,
            settings,
            candidates,
            candidates.references,
            choice,
            loads,
            shapes,
            costs,
            Path(folder),
            task,
        )
        if (choice.kept.sqnr_db or 0.0) <= -MAX_DB:
            said = candidates.references.complaint(candidates.model(choice.recipe))
            if said:
                target = replace(target, reason=FloatReason(Cause.ACCURACY, UNUSABLE.format(said)))
        close = (choice.kept.sqnr_db or 0.0) < target.goal.target_db + settings.doubt_db
        if close or inputs.feedback.states:
            target = target.with_more_samples()
        found = target.fallen_back()
        # where even all products in float do not suffice, the outputs hang on the last bits of the weights
        ruined = target.goal.asked or _reached(found) < settings.ruined_db
        if ruined and _float_products_fall_short(target):
            full = replace(target.recipe, half_precision=False)
            target = replace(target, choice=replace(target.choice, recipe=full))
            found = target.fallen_back()
        found = _worth_it(target, found)
        return _with_points(target, found)


def _float_products_fall_short(target: _Target) -> bool:
    model = target.candidates.model(target.without(frozenset(target.loads)))
    return target.references.bound_db(model) < target.goal.target_db


def _reached(choice: Choice) -> float:
    """SQNR in dB on the validation samples."""
    return choice.fallback.after_db if choice.fallback is not None else choice.kept.sqnr_db or 0.0


def _worth_it(target: _Target, choice: Choice) -> Choice:
    """Return the choice, or the float model where the integers ruin the outputs or save too little."""
    if target.goal.asked or choice.fallback is None:
        return choice
    reached = choice.fallback.after_db
    if reached < target.settings.ruined_db:
        said = (
            f"no plan that was tried keeps the outputs ({reached:.1f} dB at best): the model stays float; "
            "--all-int8 --without fallback quantizes it all the same"
        )
        return target.all_float(replace(choice, warnings=(*choice.warnings, said)))
    saved = savings(choice.recipe.plan, target.shapes, target.costs) if target.costs else None
    if saved is None or not saved.too_little:
        return choice
    return target.all_float(replace(choice, warnings=(*choice.warnings, _too_little(saved, choice.recipe))))


def _too_little(saved: Savings, recipe: Recipe) -> str:
    time = f"save {saved.time:.1%} of the time" if saved.time > 0 else f"take {-saved.time:.1%} more time"
    half = ", its weights in half precision" if recipe.half_precision else ""
    return (
        f"the nodes that can stay on integers would {time} and save {saved.size:.1%} of the size: "
        f"the model stays float{half}; --all-int8 quantizes it all the same"
    )


def _with_points(target: _Target, choice: Choice) -> Choice:
    """Return the choice with the latency and size of each step towards a target of the user's."""
    inputs, fallback = target.inputs, choice.fallback
    if fallback is None or not target.goal.asked or inputs.large or len(fallback.steps) < 2:
        return choice
    steps = sorted(fallback.steps, key=lambda step: step.mac_share)
    files = [target.stored(step.nodes, f"{i}.onnx") for i, step in enumerate(steps)]
    samples = inputs.samples.validation[: target.settings.timed]
    feeds = [check_feeds(sample, inputs.specs) for sample in samples]
    model = inputs.options.model
    whole, *times = medians_ms([model, *files], feeds, threads=1, seconds=0.5 * len(files))
    points = [
        Point(
            _name(step),
            step.sqnr_db,
            ms / whole,
            file_bytes(file) / file_bytes(model),
            step.nodes == fallback.nodes,
            step.drop,
        )
        for step, ms, file in zip(steps, times, files, strict=True)
    ]
    return replace(choice, points=points)


def _name(step: Step) -> str:
    return f"{len(step.nodes)} nodes float ({step.mac_share:.0%} of MACs)" if step.nodes else "all int8"


def _functions(
    plan: Plan, shapes: ShapeByName, costs: Sequence[Costs], settings: SearchSettings
) -> dict[tuple[str, ...], Load]:
    """Group neighbouring elementwise integer nodes, x sigmoid(x) for example, with the time that they cost in float.

    In a deep network their kernels round small values again and again, and no product is to blame for it.
    """
    names = [name for name, planned in plan.nodes.items() if planned.node.op_type in FUNCTIONS]
    group = {name: name for name in names}
    for name in names:
        for value in plan.nodes[name].node.inputs:
            before = value.producer() if value is not None else None
            if before is not None and (before.name or "") in group:
                group[name] = group[before.name or ""]
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(group[name], []).append(name)
    parts = grouped(list(together.values()), most=settings.most_functions, settings=settings)
    found = {tuple(name for names in part for name in names): 0.0 for part in parts}
    times = slower(plan, shapes, costs, list(found)) if costs else [0.0] * len(found)
    return {members: Load(0.0, 0.0, time) for members, time in zip(found, times, strict=True)}


def loads_of(variant: Variant, feeds: Feeds, costs: Sequence[Costs]) -> dict[str, Load]:
    """Return the cost of each planned product in float; its share of the MACs stands for a time that is not known."""
    shapes = planned_shapes(variant.model, variant.plan, feeds)
    anchors = {name: planned.node for name, planned in variant.plan.anchors.items()}
    macs = {name: node_macs(node, shapes) for name, node in anchors.items()}
    weights = {name: math.prod(sizes(node.inputs[1]) or ()) for name, node in anchors.items()}
    whole = max(1, sum(macs.values())), max(1, sum(weights.values()))
    shares = {name: (macs[name] / whole[0], weights[name] / whole[1]) for name in anchors}
    times = slowdowns(variant.plan, shapes, costs) if costs else {}
    return {name: Load(*shares[name], times.get(name, shares[name][0])) for name in anchors}
