"""The reports of evaluation, benchmarks and inspection as text for a terminal."""

from collections.abc import Callable

from onnxq.comparison.caches import described
from onnxq.evaluation.benchmark import BenchReport
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.inspection import InspectReport
from onnxq.evaluation.report import EvalReport, ModelScore, WorstSample
from onnxq.evaluation.scores.kinds import drop_unit, in_percent
from onnxq.report.escaping import printable_report
from onnxq.report.tables import number, percent, size, some, table, wrapped


def eval_text(report: EvalReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the report of `onnxq eval`."""
    report = printable_report(report)
    labelled = f", {report.labelled} with a label" if report.labelled else ", no labels"
    parts = [
        table(eval_columns(report), width=width),
        f"{report.samples} samples{labelled}; output '{report.output}'",
    ]
    if report.metric is None and any(score.agreement is not None for score in report.scores[1:]):
        parts.append(f"agreement: share of decisions, the largest value of '{report.output}', that are equal")
    parts += [
        line
        for score in report.scores[1:]
        for line in (*_drop_lines(report, score), *_part_lines(score, verbose=verbose))
    ]
    if verbose:
        parts += [_worst(score) for score in report.scores[1:] if score.worst]
    parts[1:] = [wrapped(line, width) if "\n" not in line else line for line in parts[1:]]
    return "\n\n".join(parts[:2]) + "".join("\n" + line for line in parts[2:])


def _part_lines(score: ModelScore, *, verbose: bool) -> list[str]:
    """List output parts, decisions, selections and sequences of one model."""
    lines = []
    if len(score.parts) > 1:
        shown = score.parts if verbose else score.parts[:3]
        more = f" and {len(score.parts) - len(shown)} more" if len(score.parts) > len(shown) else ""
        listed = ", ".join(f"'{part.name}' {part.sqnr_db:.1f} dB" for part in shown)
        lines.append(f"{score.model}: SQNR of the output parts, worst first: {listed}{more}")
    for part in score.parts[:1]:
        if part.worst:
            share = sum(sample.noise_share for sample in part.worst)
            names = some([sample.sample for sample in part.worst])
            lines.append(f"{score.model}: {share:.0%} of the noise of '{part.name}' is in {names}")
    for each in score.decisions:
        changed = f"{each.changed:.2%} of {each.count} decisions of '{each.output}' changed"
        lines.append(f"{score.model}: {changed}, {each.expected:.2%} expected from noise of this size")
    lines += [
        f"{score.model}: {share:.1%} of the entries that '{node}' selects are equal"
        for node, share in score.selections.items()
    ]
    if score.caches:
        lines.append(f"{score.model}: {described(score.caches)}")
    if score.sequences is not None:
        lines.append(f"{score.model}: run in {score.sequences} sequences, each model with its own states")
    return lines


def eval_columns(report: EvalReport) -> list[list[str]]:
    """Make a header and one row per model, without columns that have no values."""
    names = dict.fromkeys(name for score in report.scores for name in score.metrics)
    columns: list[tuple[str, Callable[[ModelScore], str]]] = [
        *((name, lambda s, name=name: _metric(s, name)) for name in names),
        ("agreement", lambda s: percent(s.agreement)),
        (
            "SQNR dB",
            lambda s: number(s.sqnr_db, "{:.2f}") + _since(s.sqnr_db, s.before.get("sqnr_db"), 1, "{:+.2f}"),
        ),
        ("cosine", lambda s: number(s.cosine, "{:.5f}")),
        ("max error", lambda s: number(s.max_error, "{:.3g}")),
        ("size", lambda s: size(s.bytes)),
        ("latency ms", lambda s: number(s.latency_ms, "{:.3f}")),
        (
            "ratio",
            lambda s: (
                number(s.latency_ratio, "{:.2f}")
                + _since(s.latency_ratio, s.before.get("latency_ratio"), 1, "{:+.2f}")
            ),
        ),
    ]
    kept = [(name, cell) for name, cell in columns if any(cell(score) != "-" for score in report.scores)]
    rows = [["model", *(name for name, _ in kept)]]
    return rows + [
        [score.model, *(_hide(i, name, cell(score)) for name, cell in kept)]
        for i, score in enumerate(report.scores)
    ]


def _metric(score: ModelScore, name: str) -> str:
    """Format a score and its change since the baseline."""
    if name not in score.metrics:
        return "-"
    value, before = score.metrics[name].value, score.before.get(name)
    if in_percent(name):
        return f"{value:.2%}" + _since(value, before, 100, "{:+.2f}")
    shown = f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
    return shown + _since(value, before, 1, "{:+.4f}")


def _since(value: float | None, before: float | None, scale: int, form: str) -> str:
    return "" if value is None or before is None else f" ({form.format((value - before) * scale)})"


def _drop_lines(report: EvalReport, score: ModelScore) -> list[str]:
    """Describe the change of the first metric and its statistical significance."""
    value = score.metrics.get(report.metric or "")
    if value is None or value.drop is None or value.p_value is None:
        return []
    percent = in_percent(report.metric or "")
    scale = 100 if percent else 1
    interval = f"95 % confidence interval of its value {value.low * scale:.4g} to {value.high * scale:.4g}"
    if abs(value.drop) < 5e-5:
        return [f"{score.model}: {report.metric} does not change; {interval}"]
    direction, unit = "worse" if value.drop > 0 else "better", drop_unit(report.metric or "")
    verdict = "significant" if value.significant else "not significant"
    change = f"{report.metric} is {direction} by {abs(value.drop):.4g}{unit}"
    return [f"{score.model}: {change}: {verdict} (paired test, p = {value.p_value:.2g}); {interval}"]


def _worst(score: ModelScore) -> str:
    rows = [["worst samples", "SQNR dB", "label", "prediction"]]
    for worst in score.worst:
        rows.append([worst.sample, f"{worst.sqnr_db:.1f}", worst.label or "-", prediction(worst, "->")])
    return f"\n{score.model}\n{table(rows)}"


def prediction(worst: WorstSample, arrow: str) -> str:
    """Return the float model's class or text, and the other model's if that differs."""
    before: int | str | None = worst.float_class
    after: int | str | None = worst.other_class
    if before is None:
        before, after = worst.float_text, worst.other_text
    if before is None:
        return "-"
    return str(before) if before == after else f"{before} {arrow} {after}"


def _hide(row: int, column: str, cell: str) -> str:
    """Hide the error of the float model against itself."""
    return "-" if row == 0 and column in ("agreement", "SQNR dB", "cosine", "max error") else cell


def bench_text(report: BenchReport, *, width: int | None = None) -> str:
    """Format the report of `onnxq bench`."""
    report = printable_report(report)
    machine = report.machine
    facts = [machine.cpu, f"{machine.cores} cores", " ".join(machine.instructions)]
    head = f"{', '.join(fact for fact in facts if fact)}; onnxruntime {machine.onnxruntime}"
    rows = [["model", "batch", "threads", "median ms", "10..90 %", "ratio", "samples/s"]]
    for i in range(len(report.models[0].timings)):
        for model in report.models:
            t = model.timings[i]
            spread = f"{t.low_ms:.3f}..{t.high_ms:.3f}"
            rows.append(
                [
                    model.model,
                    str(t.batch),
                    str(t.threads),
                    f"{t.median_ms:.3f}",
                    spread,
                    f"{t.ratio:.2f}",
                    f"{t.throughput:.1f}",
                ]
            )
    files = [["model", "size", "load ms", "memory"]]
    for model in report.models:
        memory = "-" if model.memory_bytes is None else size(model.memory_bytes)
        files.append([model.model, size(model.bytes), number(model.load_ms, "{:.0f}"), memory])
    parts = [wrapped(head, width), table(rows, width=width), table(files, width=width)]
    generated = [(model.model, model.generation) for model in report.models if model.generation is not None]
    if generated:
        lines = [["model", "prompt", "tokens", "first ms", "token ms", "tokens/s", "same tokens"]]
        for name, timing in generated:
            times = [f"{timing.first_ms:.1f}", f"{timing.token_ms:.2f}", f"{timing.per_second:.1f}"]
            lines.append([name, str(timing.prompt), str(timing.tokens), *times, f"{timing.agreement:.1%}"])
        parts.append(table(lines, width=width))
    if report.expected:
        parts += _expected_parts(report, width)
    return "\n\n".join(parts)


def _expected_parts(report: BenchReport, width: int | None) -> list[str]:
    """Format the latencies that the target expects, and those measured."""
    rows = [["model", "cpu", "batch", "threads", "float nodes", "expected ms", "ratio", "measured ms"]]
    first = {
        (each.cpu, each.batch): each.expected_ms
        for each in report.expected
        if each.model == report.models[0].model
    }
    for each in report.expected:
        base = first.get((each.cpu, each.batch))
        ratio = each.expected_ms / base if each.expected_ms is not None and base else None
        numbers = [number(each.expected_ms, "{:.3f}"), number(ratio, "{:.2f}")]
        sizes = [str(each.batch), str(each.threads), str(each.float_nodes)]
        rows.append([each.model, each.cpu, *sizes, *numbers, number(each.measured_ms, "{:.3f}")])
    counts = report.expected[0].uncounted
    missing = ", ".join(f"{count} {op_type}" for op_type, count in counts.items())
    note = [wrapped(f"nodes that count as 0 ms: {missing}", width)] if missing else []
    return [table(rows, left=2, width=width), *note]


def debug_text(report: DebugReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the worst layers of `onnxq debug`, or all of them if `verbose`."""
    report = printable_report(report)
    shown = report.layers if verbose else report.worst
    rows = [["layer", "operator", "SQNR dB", "own dB", "min", "max", "clipped", "saturating"]]
    for row in shown:
        clipped = "-" if row.clipped is None else f"{row.clipped:.2%}"
        cells = [
            number(row.sqnr_db, "{:.1f}"),
            number(row.own_db, "{:.1f}"),
            f"{row.low:.3g}",
            f"{row.high:.3g}",
            clipped,
            str(row.saturating),
        ]
        rows.append([row.name, row.op_type, *cells])
    advice = [[row.name, row.advice] for row in shown if row.advice]
    tried = f"\n\n{table([['layer', 'advice'], *advice], left=2, width=width)}" if advice else ""
    parts = [
        f"'{part.name}' {part.sqnr_db:.1f} dB" for part in (report.outputs if verbose else report.outputs[:3])
    ]
    outputs = f"\n\noutputs: {', '.join(parts)}" if parts else ""
    which = "all" if verbose else f"the {len(shown)} with the least SQNR of"
    head = f"{which} {len(report.layers)} layers, {report.samples} samples"
    return f"{head}{outputs}\n\n{table(rows, left=2, width=width)}{tried}"


def _forecast_rows(report: InspectReport) -> list[list[str]]:
    """List the expected gain, and what the model is already."""
    rows = []
    if report.quantized:
        kernels = ", ".join(f"{name} {count}" for name, count in report.kernels.items()) or "none"
        rows.append(["quantized", f"already, by {report.quantized} nodes; integer kernels: {kernels}"])
        rows.append(["", f"{report.integer_share:.1%} of the MACs are in integer kernels"])
    if report.forecast is not None:
        gain = report.forecast
        slower = f"; {gain.slower} planned nodes stay float, where that is faster" if gain.slower else ""
        ratio = gain.bytes / max(1, report.bytes)
        rows += [
            ["expected", f"{gain.latency:.2f}x of float's latency by the cost model ({gain.target}){slower}"],
            ["", f"{size(report.bytes)} -> about {size(gain.bytes)} ({ratio:.2f}x)"],
        ]
    return rows


def inspect_text(report: InspectReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the report of `onnxq inspect`."""
    report = printable_report(report)
    converted = f", converted to {report.opset_normalized}" if report.opset_normalized != report.opset else ""
    total = sum(row.macs for row in report.operators)
    head = table(
        [
            [
                "model",
                f"{report.model} ({size(report.bytes)}, opset {report.opset}{converted}, IR "
                f"{report.ir_version})",
            ],
            ["inputs", ", ".join(report.inputs)],
            ["outputs", ", ".join(report.outputs)],
            [
                "planned",
                f"{report.planned_mac_share:.1%} of {total / 1e6:.1f} M MACs"
                + ("" if report.shaped else " (open sizes count as 1: --shape or --data sets them)"),
            ],
            *_forecast_rows(report),
        ],
        left=2,
        width=width,
    )
    rows = [["operator", "nodes", "to int8" if report.quantized else "int8", "MACs"]]
    for row in report.operators:
        share = f"{row.macs / total:.1%}" if total and row.macs else "-"
        rows.append([row.op_type, str(row.nodes), str(row.integer), share])
    reasons = [["stays float", "nodes", "reason"]]
    for group in report.floats:
        names = f" ({some(group.names)})" if verbose else ""
        reasons.append([group.op_type, str(len(group.names)), group.reason + names])
    floats = f"\n\n{table(reasons, left=3, width=width)}" if report.floats else ""
    return f"{head}\n\n{table(rows, width=width)}{floats}"
