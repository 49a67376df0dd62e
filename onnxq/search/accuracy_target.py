"""How many nodes it takes in float until the outputs, or the task's metric, hold; and whether what is left is worth it."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxq.cost.model import Costs
from onnxq.cost.placement import REASON as SLOW
from onnxq.cost.placement import Savings, place, savings, slowdowns, slower
from onnxq.data.preprocessing import read_forms
from onnxq.data.samples import check_feeds
from onnxq.errors import DataError
from onnxq.evaluation.evaluate import EvalOptions, evaluate, evaluated_samples
from onnxq.graph.edit import sizes
from onnxq.graph.files import file_bytes, save
from onnxq.graph.macs import ShapeByName, node_macs
from onnxq.inputs import Job, planned_shapes
from onnxq.plan.plan import Plan
from onnxq.quantization.parameters import Parameters
from onnxq.runtime.latency import medians_ms
from onnxq.runtime.sessions import InputSpec
from onnxq.search.candidates import Candidates, Choice, Variant, keep_outputs
from onnxq.search.mixed_precision import REASON, RUINED_DB, TARGET_DB, Goal, Load, Step, Work, grouped
from onnxq.search.trade_off import Point
from onnxq.search.validation import DOUBT_DB, more_references
from onnxq.types import Feeds

FUNCTIONS = frozenset({"HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"})
MOST_FUNCTIONS = 16
"""Groups of them that are measured."""
TIMED = 4
"""Held-out samples that are timed."""


@dataclass(frozen=True)
class Task:
    """Samples with labels, and how they are scored: what --max-drop holds on."""

    data: Path
    options: EvalOptions

    def check(self, specs: list[InputSpec]) -> None:
        """Open the samples and their labels, long before they are needed.

        Raises:
            DataError: they cannot be read, or do not fit one another or the model.
        """
        evaluated_samples(self.data, specs, read_forms(self.options.preprocess), self.options)

    def drop(self, model: Path, other: Path) -> tuple[str, float]:
        """The metric's name, and by how much another model's is worse: points (hundredths) of shares, else its own unit."""
        report = evaluate(model, [other], self.data, replace(self.options, latency=False))
        if report.metric is None:
            raise DataError("--max-drop needs a metric: give --labels FILE, or --metric")
        return report.metric, report.scores[1].metrics[report.metric].drop or 0.0


def hold_outputs(
    job: Job, candidates: Candidates, choice: Choice, loads: Mapping[str, Load], task: Task | None
) -> Choice:
    """The choice with as many nodes float as it takes for the outputs, or the task's metric, to hold."""
    assert candidates.references is not None
    limits, kept, model = job.options.limits, choice.kept, candidates.variant.model
    shapes = planned_shapes(model, choice.plan, check_feeds(job.held_out[0], job.specs))
    costs = job.costs if job.options.skip_slow_nodes else ()

    def without(names: frozenset[str], why: str = REASON) -> Plan:
        left = dict.fromkeys(names, why)
        plan = job.replan(model, left)
        # what lies between them may not be worth its conversions any more
        slow = place(plan, shapes, costs).floats if costs and names else ()
        return job.replan(model, dict.fromkeys(slow, SLOW) | left) if slow else plan

    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:

        def stored(names: Sequence[str], file: str) -> Path:
            path = Path(folder) / file
            save(candidates.model(without(frozenset(names)), kept), path)
            return path

        def drop(names: frozenset[str]) -> float:
            assert task is not None
            return task.drop(job.options.model, stored(sorted(names), "candidate.onnx"))[1]

        goal = Goal(max(TARGET_DB, limits.min_sqnr or 0.0), limits.min_sqnr is not None)
        if task is not None and limits.max_drop is not None:
            least = (
                -math.inf if limits.min_sqnr is None else limits.min_sqnr
            )  # the metric decides, unless both are asked for
            goal = Goal(least, asked=True, drop=drop, max_drop=limits.max_drop)
        if (choice.kept.sqnr_db or 0.0) < goal.target_db + DOUBT_DB or job.feedback.states:
            choice = _judged_by_more(job, candidates, choice)
        work = Work(loads, _functions(choice.plan, shapes, costs), len(model.graph))
        everything, choice = choice, keep_outputs(candidates, choice, work, without, goal)
        ruined = goal.asked or _reached(choice) < RUINED_DB
        if (
            ruined
            and candidates.references.bound_db(candidates.model(without(frozenset(loads)), kept))
            < goal.target_db
        ):
            job.half = False  # the outputs hang on the last bits of the weights
            choice = keep_outputs(candidates, everything, work, without, goal)
        if not goal.asked and choice.fallback is not None and choice.fallback.after_db < RUINED_DB:
            job.warnings.append(
                f"no plan that was tried keeps the outputs ({choice.fallback.after_db:.1f} dB at best): the model stays float; "
                "--all-int8 --without fallback quantizes it all the same"
            )
            choice = _all_float(job, candidates, choice, loads)
        elif costs and not goal.asked and choice.fallback is not None:
            choice = _worth_their_noise(job, candidates, choice, loads, savings(choice.plan, shapes, costs))
        steps = (
            sorted(choice.fallback.steps, key=lambda step: step.mac_share)
            if choice.fallback is not None and goal.asked and not job.large
            else []
        )
        if len(steps) > 1:
            files = [stored(step.nodes, f"{i}.onnx") for i, step in enumerate(steps)]
            job.points = _points(job, choice, steps, files)
    return choice


def _judged_by_more(job: Job, candidates: Candidates, choice: Choice) -> Choice:
    """The choice held against more samples, as all that follows is."""
    assert candidates.references is not None
    candidates.references = more_references(job, candidates.references)
    found = candidates.references.sqnr_db(candidates.model(choice.plan, choice.kept))
    return replace(choice, kept=replace(choice.kept, sqnr_db=found))


def _reached(choice: Choice) -> float:
    """SQNR in dB on the judges."""
    return choice.fallback.after_db if choice.fallback is not None else choice.kept.sqnr_db or 0.0


def _worth_their_noise(
    job: Job, candidates: Candidates, choice: Choice, loads: Mapping[str, Load], saved: Savings
) -> Choice:
    """The choice, or all float where its integers save too little of the time and of the size."""
    if not saved.too_little:
        return choice
    time = f"save {saved.time:.1%} of the time" if saved.time > 0 else f"take {-saved.time:.1%} more time"
    job.warnings.append(
        f"what could stay on integers would {time} and save {saved.size:.1%} of the size: "
        f"the model stays float{', its weights in half precision' if job.half else ''}; --all-int8 quantizes it all the same"
    )
    return _all_float(job, candidates, choice, loads)


def _all_float(job: Job, candidates: Candidates, choice: Choice, loads: Mapping[str, Load]) -> Choice:
    """The plain model, with its weights in half precision where they may be."""
    plain = candidates.others[0] if candidates.others else candidates
    assert choice.fallback is not None
    assert candidates.references is not None
    plan = job.replan(
        plain.variant.model, dict.fromkeys(loads, SLOW) | dict.fromkeys(choice.fallback.nodes, REASON)
    )
    kept = replace(choice.kept, techniques=())
    nothing = Parameters()  # without products nothing is planned
    after = candidates.references.bound_db(plain.write(plain.variant.model, plan, nothing))
    fallback = replace(choice.fallback, nodes=tuple(loads), mac_share=1.0, after_db=after)
    return replace(
        choice, kept=kept, model=plain.variant.model, plan=plan, parameters=nothing, fallback=fallback
    )


def _points(job: Job, choice: Choice, steps: Sequence[Step], files: Sequence[Path]) -> list[Point]:
    """What each step costs: accuracy against latency and size."""
    feeds = [check_feeds(sample, job.specs) for sample in job.held_out[:TIMED]]
    whole, *times = medians_ms([job.options.model, *files], feeds, threads=1, seconds=0.5 * len(files))
    size, kept = file_bytes(job.options.model), choice.fallback.nodes if choice.fallback is not None else ()
    names = [
        f"{len(step.nodes)} nodes float ({step.mac_share:.0%} of MACs)" if step.nodes else "all int8"
        for step in steps
    ]
    return [
        Point(name, step.sqnr_db, ms / whole, file_bytes(file) / size, step.nodes == kept, step.drop)
        for name, step, ms, file in zip(names, steps, times, files, strict=True)
    ]


def _functions(plan: Plan, shapes: ShapeByName, costs: Sequence[Costs]) -> dict[tuple[str, ...], Load]:
    """Groups of neighbouring elementwise nodes that compute on integers (x sigmoid(x) is one), with what each takes longer in float.

    Their kernels round what is small beside an output's range, again and again in a deep network, which no product is to blame for.
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
    found = {
        tuple(name for part in parts for name in part): 0.0
        for parts in grouped(list(together.values()), most=MOST_FUNCTIONS)
    }
    times = slower(plan, shapes, costs, list(found)) if costs else [0.0] * len(found)
    return {members: Load(0.0, 0.0, time) for members, time in zip(found, times, strict=True)}


def loads_of(variant: Variant, feeds: Feeds, costs: Sequence[Costs]) -> dict[str, Load]:
    """What each planned product costs in float; where no table knows its time, it counts as its MACs do."""
    shapes = planned_shapes(variant.model, variant.plan, feeds)
    anchors = {name: planned.node for name, planned in variant.plan.anchors.items()}
    macs = {name: node_macs(node, shapes) for name, node in anchors.items()}
    weights = {name: math.prod(sizes(node.inputs[1]) or ()) for name, node in anchors.items()}
    whole = max(1, sum(macs.values())), max(1, sum(weights.values()))
    shares = {name: (macs[name] / whole[0], weights[name] / whole[1]) for name in anchors}
    times = slowdowns(variant.plan, shapes, costs) if costs else {}
    return {name: Load(*shares[name], times.get(name, shares[name][0])) for name in anchors}
