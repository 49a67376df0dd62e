"""Accuracy targets: leave nodes in float until the outputs or the task's metric meet the target."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from onnxq.comparison.metrics import MAX_DB
from onnxq.cost.model import Costs
from onnxq.cost.placement import Savings, place, savings
from onnxq.data.samples import check_feeds
from onnxq.formats.recipe import Recipe
from onnxq.graph.files import SINGLE_FILE_LIMIT, file_bytes, save, weight_bytes
from onnxq.graph.macs import ShapeByName
from onnxq.graph.scratch import ScratchFolder, writing_temporaries
from onnxq.plan.reasons import MEASURING, SLOWER, TOO_NOISY, UNUSABLE, Cause, FloatReason
from onnxq.plan.shapes import planned_shapes
from onnxq.quantization.parameters import Parameters
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.status import activity
from onnxq.search.candidates import Candidates
from onnxq.search.float_costs import elementwise_groups
from onnxq.search.inputs import Inputs
from onnxq.search.mixed_precision import FallbackNodes, FloatCost, Goal, Step, fall_back
from onnxq.search.references import OutputNoise, References, Toggled
from onnxq.search.settings import SearchSettings
from onnxq.search.task import Task
from onnxq.search.trade_off import Point
from onnxq.search.trial import Choice
from onnxq.search.validation import more_references

TOGGLED_COPIES = 4
"""Copies of the weights while a toggle model's session opens: two forms, in the file and in the session."""


@dataclass(frozen=True, eq=False)
class _Target:
    """Everything that the search for one target needs.

    float_costs  cost of each planned product in float
    shapes       shapes of the values
    costs        cost model of each CPU; empty where no node may stay float for speed
    folder       folder for the files that are measured
    reason       reason of the nodes that go back to float
    before       noise of the outputs with everything quantized, where it has been measured
    """

    inputs: Inputs
    settings: SearchSettings
    candidates: Candidates
    references: References
    choice: Choice
    float_costs: Mapping[str, FloatCost]
    shapes: ShapeByName
    costs: Sequence[Costs]
    folder: Path
    task: Task | None = None
    reason: FloatReason = TOO_NOISY
    before: OutputNoise | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe with everything quantized."""
        return self.choice.recipe

    @property
    def goal(self) -> Goal:
        """The condition that the options set."""
        limits = self.inputs.options.limits
        close_db, asked = self.settings.close_db, limits.min_sqnr is not None
        if self.task is None or limits.max_drop is None:
            target = max(self.settings.target_db, limits.min_sqnr or 0.0)
            return Goal(target, asked, close_db=close_db)
        # the metric decides alone, unless the user asked for both
        target = -math.inf if limits.min_sqnr is None else limits.min_sqnr
        return Goal(target, asked=True, drop=self.drop, max_drop=limits.max_drop, close_db=close_db)

    def in_float(self, names: frozenset[str]) -> Recipe:
        """Return the recipe with these nodes in float.

        Nodes between them also become float where conversions would make them slower in int8.
        """
        floats = dict.fromkeys(names, self.reason)
        recipe = self.recipe.leaving(floats)
        slow = place(recipe.plan, self.shapes, self.costs).floats if self.costs and names else ()
        return self.recipe.leaving({**dict.fromkeys(slow, SLOWER), **floats}) if slow else recipe

    def write(self, names: Sequence[str], file: str) -> Path:
        """Write a file with these nodes in float."""
        path = self.folder / file
        with writing_temporaries():
            save(self.candidates.model(self.in_float(frozenset(names))), path)
        return path

    def drop(self, names: frozenset[str]) -> float:
        """Measure the drop of the task's metric with these nodes in float."""
        assert self.task is not None
        return self.task.drop(self.inputs.options.model, self.write(sorted(names), "candidate.onnx"))[1]

    def with_more_samples(self) -> "_Target":
        """Return the same target, measured on more validation samples."""
        references = more_references(self.inputs, self.references)
        before = references.measure(self.candidates.model(self.recipe), at_outputs=self.goal.asked)
        choice = replace(self.choice, kept=replace(self.choice.kept, sqnr_db=before.sqnr_db))
        candidates = replace(self.candidates, references=references)
        return replace(self, candidates=candidates, references=references, choice=choice, before=before)

    def with_fallback(self) -> Choice:
        """Return the choice with as many nodes in float as the goal needs."""
        if self.choice.kept.sqnr_db is None:
            return self.choice
        before = self.before
        if before is None:
            before = self.references.measure(self.candidates.model(self.recipe), at_outputs=self.goal.asked)
        settings = self._affordable()
        samples = self.references.representative_samples(before, settings.node_samples)
        elementwise = elementwise_groups(self.recipe.plan, self.shapes, self.costs, settings)
        values = self.references.fewest_values(samples)
        nodes = FallbackNodes(self.float_costs, elementwise, len(self.recipe.model.graph), values)

        toggled_once = cache(self._toggled)  # opened where the outputs miss the target, and closed behind it

        def measure_few(names: frozenset[str]) -> Sequence[float]:
            # without nodes that would be slow beside these alone: their noise would be missed
            recipe = self.recipe.leaving(dict.fromkeys(names, MEASURING))
            with activity(f"measuring the error with {_nodes(len(names))} in float"):
                toggled = toggled_once()
                if toggled is not None:
                    return self.references.measure_toggled(toggled, recipe.plan, samples).noise
                return self.references.measure_before_softmax(self.candidates.model(recipe), samples).noise

        # by the nodes in float: those that would be slow between others make different sets the same
        measured: dict[frozenset[str], Sequence[float]] = {}

        def measure_all(names: frozenset[str]) -> Sequence[float]:
            recipe = self.in_float(names)
            in_float = frozenset(recipe.plan.floats)
            if in_float not in measured:
                with activity(f"trying {_nodes(len(names))} in float"):
                    model = self.candidates.model(recipe)
                    measured[in_float] = self.references.measure(model, at_outputs=self.goal.asked).bound
            return measured[in_float]

        fallback = fall_back(nodes, measure_few, measure_all, before.bound, self.goal, settings)
        if not fallback.nodes:
            known = self.goal.asked or fallback.after_db < self.settings.unusable_db
            return replace(self.choice, fallback=fallback if known else None)
        return replace(self.choice, recipe=self.in_float(frozenset(fallback.nodes)), fallback=fallback)

    def _affordable(self) -> SearchSettings:
        """Return the settings with as many groups, samples and steps as the budget's remaining runs allow.

        A third is for each of the two ways to measure nodes, and for the steps.
        """
        settings, third = self.settings, min(self.references.budget.left, 1e9) / 3
        groups = max(1, min(len(self.float_costs), settings.max_groups))
        samples = min(settings.node_samples, max(settings.least_node_samples, int(third / groups)))
        most = max(settings.min_groups, int(third / samples))
        steps = max(settings.least_steps, int(third / len(self.references.names)))
        return replace(
            settings,
            node_samples=samples,
            max_groups=min(settings.max_groups, most),
            max_elementwise_groups=min(settings.max_elementwise_groups, most),
            max_steps=min(settings.max_steps, steps),
        )

    def _toggled(self) -> Toggled | None:
        """Return the toggle model of the recipe; None where copies of the weights may not fit into memory."""
        if TOGGLED_COPIES * weight_bytes(self.recipe.model) > SINGLE_FILE_LIMIT:
            return None
        toggles = self.candidates.writer.toggles(self.recipe, self.candidates.parameters(self.recipe))
        return None if toggles is None else self.references.toggled(toggles)

    def all_float(self, choice: Choice) -> Choice:
        """Return the plain model in float, its weights in half precision where the choice allows it."""
        plain = self.candidates.others[0] if self.candidates.others else self.candidates
        assert choice.fallback is not None
        floats = {
            **dict.fromkeys(self.float_costs, SLOWER),
            **dict.fromkeys(choice.fallback.nodes, self.reason),
        }
        recipe = replace(choice.recipe, model=plain.variant.model, techniques=()).leaving(floats)
        after = self.references.bound_db(plain.writer.write(recipe, Parameters()))
        fallback = replace(choice.fallback, nodes=tuple(self.float_costs), mac_share=1.0, after_db=after)
        kept = replace(choice.kept, techniques=())
        return replace(choice, recipe=recipe, kept=kept, fallback=fallback)


def meet_target(
    inputs: Inputs,
    candidates: Candidates,
    choice: Choice,
    float_costs: Mapping[str, FloatCost],
    task: Task | None,
) -> Choice:
    """Return the choice with as many nodes in float as the outputs, or the task's metric, need."""
    assert candidates.references is not None
    settings, options = candidates.settings, inputs.options
    feeds = check_feeds(inputs.samples.validation[0], inputs.specs)
    shapes = planned_shapes(candidates.variant.model, choice.recipe.plan, feeds)
    costs = inputs.costs if options.skip_slow_nodes else ()
    with ScratchFolder() as folder:
        target = _Target(
            inputs,
            settings,
            candidates,
            candidates.references,
            choice,
            float_costs,
            shapes,
            costs,
            folder,
            task,
        )
        if (choice.kept.sqnr_db or 0.0) <= -MAX_DB:
            message = candidates.references.complaint(candidates.model(choice.recipe))
            if message:
                target = replace(target, reason=FloatReason(Cause.ACCURACY, UNUSABLE.format(message)))
        # more validation samples where the outputs are close to the target
        close = (choice.kept.sqnr_db or 0.0) < target.goal.target_db + settings.more_samples_db
        if close or inputs.feedback.states:
            target = target.with_more_samples()
        # nodes in float
        result = target.with_fallback()
        # full-precision weights where all products in float miss the target with half-precision weights
        unusable = target.goal.asked or _reached_db(result) < settings.unusable_db
        if unusable and _float_products_miss_target(target):
            full = replace(target.recipe, half_precision=False)
            target = replace(target, choice=replace(target.choice, recipe=full), before=None)
            result = target.with_fallback()
        # the float model where quantization does not pay
        result = _worthwhile(target, result)
        return _with_points(target, result)


def _float_products_miss_target(target: _Target) -> bool:
    model = target.candidates.model(target.in_float(frozenset(target.float_costs)))
    return target.references.bound_db(model) < target.goal.target_db


def _reached_db(choice: Choice) -> float:
    """Return the SQNR of a choice on the validation samples, dB."""
    return choice.fallback.after_db if choice.fallback is not None else choice.kept.sqnr_db or 0.0


def _worthwhile(target: _Target, choice: Choice) -> Choice:
    """Return the choice, or the float model where int8 makes the outputs unusable or saves too little."""
    if target.goal.asked or choice.fallback is None:
        return choice
    reached = choice.fallback.after_db
    if reached < target.settings.unusable_db:
        warning = (
            f"no plan that was tried keeps the outputs ({reached:.1f} dB at best): the model stays float; "
            "--all-int8 --without fallback quantizes it all the same"
        )
        return target.all_float(replace(choice, warnings=(*choice.warnings, warning)))
    saved = savings(choice.recipe.plan, target.shapes, target.costs) if target.costs else None
    if saved is None:
        return choice
    misses = reached < target.settings.target_db and saved.time < target.settings.least_saving
    if not misses and not saved.too_little:
        return choice
    warning = _too_little(saved, choice.recipe, reached if misses else None)
    return target.all_float(replace(choice, warnings=(*choice.warnings, warning)))


def _too_little(saved: Savings, recipe: Recipe, reached_db: float | None) -> str:
    time = f"save {saved.time:.1%} of the time" if saved.time > 0 else f"take {-saved.time:.1%} more time"
    half = ", its weights in half precision" if recipe.half_precision else ""
    outputs = "" if reached_db is None else f", with outputs at {reached_db:.1f} dB"
    return (
        f"the nodes that can stay in int8 would {time} and save {saved.size:.1%} of the size{outputs}: "
        f"the model stays float{half}; --all-int8 quantizes it all the same"
    )


def _with_points(target: _Target, choice: Choice) -> Choice:
    """Return the choice with the latency and size of each step towards the user's target."""
    inputs, fallback = target.inputs, choice.fallback
    if fallback is None or not target.goal.asked or inputs.large or len(fallback.steps) < 2:
        return choice
    # one file for each step
    steps = sorted(fallback.steps, key=lambda step: step.mac_share)
    files = [target.write(step.nodes, f"{i}.onnx") for i, step in enumerate(steps)]
    # their latency
    samples = inputs.samples.validation[: target.settings.latency_samples]
    feeds = [check_feeds(sample, inputs.specs) for sample in samples]
    model = inputs.options.model
    with activity("measuring latency"):
        float_ms, *times = medians_ms([model, *files], feeds, threads=1, seconds=0.5 * len(files))
    points = [
        Point(
            _name(step),
            step.sqnr_db,
            ms / float_ms,
            file_bytes(file) / file_bytes(model),
            step.nodes == fallback.nodes,
            step.drop,
        )
        for step, ms, file in zip(steps, times, files, strict=True)
    ]
    return replace(choice, points=points)


def _nodes(count: int) -> str:
    return f"{count} {'node' if count == 1 else 'nodes'}"


def _name(step: Step) -> str:
    return f"{_nodes(len(step.nodes))} float ({step.mac_share:.0%} of MACs)" if step.nodes else "all int8"
