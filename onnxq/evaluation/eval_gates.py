"""The gates of `onnxq eval`: limits of the user on each model, and against an earlier report."""

from collections.abc import Sequence
from pathlib import Path

from onnxq.evaluation.gates import Gate, at_least, at_most, unchecked
from onnxq.evaluation.report import ModelScore
from onnxq.evaluation.scores.kinds import drop_unit
from onnxq.evaluation.scores.score import Score
from onnxq.options import Limits


def eval_gates(
    rows: Sequence[ModelScore],
    metric: str | None,
    scores: Sequence[Score],
    limits: Limits,
    baseline: Path | None,
) -> list[Gate]:
    """Check the limits on all models but the float one, then against the baseline."""
    gates = [gate for row in rows[1:] for gate in _gates(row, rows[0], metric, limits)]
    if baseline is not None:
        direction = (1 if scores[0].higher else -1) * (100 if scores[0].share else 1) if metric else 1
        for row in rows:
            gates += _baseline_gate(row, metric, direction, limits, baseline, other=row is not rows[0])
    return gates


def _gates(row: ModelScore, base: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    """Check the limits on one model."""
    ratio = row.latency_ratio
    return [
        *_drop_gate(row, metric, limits),
        *at_least("--min-sqnr", row.model, limits.min_sqnr, row.sqnr_db, "SQNR is {:.2f} dB"),
        *at_least(
            "--min-agreement",
            row.model,
            limits.min_agreement,
            row.agreement,
            "agreement with float is {:.4f}",
        ),
        *at_least(
            "--min-speedup",
            row.model,
            limits.min_speedup,
            1 / ratio if ratio else None,
            "speed-up is {:.2f}x",
        ),
        *at_most("--max-size", row.model, limits.max_size, row.bytes / base.bytes, "size is {:.3f} of float"),
    ]


def _baseline_gate(
    row: ModelScore, metric: str | None, direction: int, limits: Limits, baseline: Path, *, other: bool
) -> list[Gate]:
    """Check --max-drop against the baseline; fail if the baseline lacks the metric of a compared model."""
    name = "--max-drop since --baseline"
    value, earlier = row.metrics.get(metric or ""), row.before.get(metric or "")
    if value is None or earlier is None:
        missing = f"{metric or 'a metric'} of {Path(row.model).name} is not in {baseline}"
        return unchecked(name, row.model, limits.max_drop, missing) if other else []
    drop = (earlier - value.value) * direction
    return at_most(
        name,
        row.model,
        limits.max_drop,
        drop,
        f"{metric} is {{:z.2f}}{drop_unit(metric or '')} worse than the baseline",
    )


def _drop_gate(row: ModelScore, metric: str | None, limits: Limits) -> list[Gate]:
    value = row.metrics.get(metric or "")
    if value is None or value.p_value is None:
        return at_most("--max-drop", row.model, limits.max_drop, None, "")
    chance = "" if value.significant else f" (not significant: p = {value.p_value:.2f})"
    found = f"{metric} is {{:z.2f}}{drop_unit(metric or '')} worse than float{chance}"
    (gate,) = at_most("--max-drop", row.model, limits.max_drop, value.drop, found) or (None,)
    if gate is None:
        return []
    tolerated = limits.significant and not value.significant
    return [Gate(gate.name, gate.model, gate.limit, gate.found, gate.holds or tolerated, gate.line)]
