"""Reports as tables for a terminal."""

import textwrap
from collections.abc import Callable, Sequence

from onnxq.evaluation.benchmark import BenchReport
from onnxq.evaluation.debugging import DebugReport
from onnxq.evaluation.inspection import InspectReport
from onnxq.evaluation.report import EvalReport, ModelScore
from onnxq.evaluation.scores.kinds import in_percent
from onnxq.evaluation.verification import Outputs
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import QuantizeReport
from onnxq.search.trial import Finetuning

SHORT_NAME, LEAST_TEXT = 20, 24
"""Characters to which a name is cut at most, and least width of a column of text."""


def size(count: int) -> str:
    """Format a number of bytes: 512 B, 1.2 kB, 17.3 MB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):  # noqa: B007
        if value < 1000:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def table(rows: Sequence[Sequence[str]], *, left: int = 1, width: int | None = None) -> str:
    """Format rows as a table; align the first `left` columns left, the others right.

    Args:
        rows: of one length each, the first one the header.
        left: number of columns aligned left.
        width: columns of the terminal, into which the table is fitted: a last column of text is wrapped, long
            names in the first column lose their beginning, and then columns go into tables below one another.
    """
    widths = _widths(rows)
    needed = sum(widths) + 2 * (len(widths) - 1)
    if width is None or needed <= width:
        return _aligned(rows, widths, left)
    if left == len(widths):
        return _wrapped(rows, widths, width)
    widths[0] = max(min(widths[0], SHORT_NAME), widths[0] - (needed - width))
    rows = [[_end(row[0], widths[0]), *row[1:]] for row in rows]
    parts, first = [], 1
    while first < len(widths):
        last, used = first + 1, widths[0] + 2 + widths[first]
        while last < len(widths) and used + 2 + widths[last] <= width:
            used, last = used + 2 + widths[last], last + 1
        shown = [[row[0], *row[first:last]] for row in rows]
        parts.append(_aligned(shown, [widths[0], *widths[first:last]], max(1, min(left - first + 1, last))))
        first = last
    return "\n\n".join(parts)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def _aligned(rows: Sequence[Sequence[str]], widths: Sequence[int], left: int) -> str:
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _wrapped(rows: Sequence[Sequence[str]], widths: Sequence[int], width: int) -> str:
    """Format rows whose last column is text, which continues below itself."""
    room = max(LEAST_TEXT, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    found: list[list[str]] = []
    for row in rows:
        lines = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        found.append([*row[:-1], lines[0]])
        found += [[*([""] * (len(row) - 1)), line] for line in lines[1:]]
    return _aligned(found, _widths(found), len(widths))


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[len(text) - most + 1 :]}"


def _line(text: str, width: int | None) -> str:
    """Wrap a line to the width of the terminal."""
    if width is None or len(text) <= width:
        return text
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)


def quantize_text(report: QuantizeReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the report of `onnxq quantize`."""
    report = printable_report(report)
    text = table(quantize_rows(report, verbose=verbose), left=2, width=width)
    return f"{frontier_table(report, width)}\n\n{text}" if report.frontier else text


def frontier_table(report: QuantizeReport, width: int | None = None) -> str:
    """Format the files that were tried, one per row."""
    drops = [f"{report.drop.metric} drop"] if report.drop is not None else []
    rows = [["tried", "SQNR dB", *drops, "latency", "size", ""]]
    for point in report.frontier:
        lost = [_number(point.drop, "{:.2f}")] if drops else []
        cells = [
            _number(point.sqnr_db, "{:.1f}"),
            *lost,
            _number(point.latency, "{:.2f}"),
            f"{point.size:.2f}",
        ]
        rows.append([point.name, *cells, "kept" if point.kept else ""])
    return table(rows, width=width)


def quantize_rows(report: QuantizeReport, *, verbose: bool = False) -> list[list[str]]:
    """List the result of `onnxq quantize` as rows of a name and a text."""
    kernels, outputs = report.kernels, report.outputs
    method = report.method if report.percentile is None else f"{report.method} {report.percentile:g}"
    samples = f"{report.samples} samples" if report.samples else "no calibration data"
    integer = ", ".join(
        f"{name} {count}" for name, count in kernels.counts.items() if name in INTEGER_KERNELS
    )
    rows = [
        ["wrote", report.output],
        [
            "size",
            f"{size(report.bytes_before)} -> {size(report.bytes_after)} "
            f"({report.bytes_after / report.bytes_before:.2f}x)",
        ],
    ]
    if report.mode != "static":
        rows.append(["mode", f"{report.mode}, {samples}"])
    elif report.planned:
        rows.append(["ranges", f"{method}, {report.samples} samples"])
    if report.planned or report.techniques:
        rows.append(
            [
                "weights",
                ", ".join(name.replace("-", " ") for name in report.techniques) or "rounded to nearest",
            ]
        )
    planned = (
        f"{kernels.integer_share:.1%} of the MACs of {report.planned} planned nodes, "
        if report.planned
        else ""
    )
    share = f"{kernels.model_share:.1%} of the model's MACs" if integer else "the file has no integer kernels"
    rows += _finetuning_rows(report.finetuning) if report.finetuning is not None else []
    rows += [
        ["integer", planned + share],
        ["kernels", f"{integer or 'none'}; {kernels.leftover} Q/DQ nodes left"],
    ]
    if kernels.requantizations:
        rows.append(["requantized", f"{len(kernels.requantizations)}: {_some(kernels.requantizations)}"])
    rows += _output_rows(outputs) if outputs is not None else []
    if report.drop is not None:
        rows.append(
            [
                "metric",
                f"{report.drop.metric} is {abs(report.drop.points):.2f} "
                f"{'worse' if report.drop.points > 0 else 'better'} than float",
            ]
        )
    if report.latency is not None:
        times = f"{report.latency.int8_ms:.3g} ms, float {report.latency.float_ms:.3g} ms"
        rows.append(["latency", f"{report.latency.ratio:.2f}x of float ({times}; one thread, this machine)"])
    rows += [["note" if i == 0 else "", note] for i, note in enumerate(report.notes)]
    if report.fallback is not None and report.fallback.nodes:
        kept = f"{len(report.fallback.nodes)} nodes with {report.fallback.mac_share:.1%} of the MACs"
        change = (
            f"SQNR {report.fallback.before_db:.1f} dB with them in int8, {report.fallback.after_db:.1f} dB "
            "in float"
        )
        rows.append(["kept float", f"{kept}: {change}"])
    shown = report.floats if verbose else report.floats[:5]
    for i, group in enumerate(shown):
        names = f" ({_some(group.names)})" if verbose else ""
        rows.append(["float" if i == 0 else "", f"{len(group.names)} {group.op_type}: {group.reason}{names}"])
    hidden = sum(len(group.names) for group in report.floats[len(shown) :])
    if hidden:
        rows.append(["", f"{hidden} more nodes; -v lists them"])
    rows.append(["time", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())])
    return rows


def _finetuning_rows(tuning: Finetuning) -> list[list[str]]:
    """List what finetuning did as rows."""
    bits = " then ".join(map(str, tuning.bits))
    trained = f"{tuning.weights} weights, {tuning.biases} biases, {tuning.scales} scales"
    how = f"{tuning.steps} steps of {tuning.batch} samples ({trained}; {bits} bits)"
    done = f"{how}: {tuning.reason}" if tuning.steps else tuning.reason
    rows = [["finetuned" if tuning.kept else "not finetuned", done]]
    if tuning.before_db is not None and tuning.after_db is not None:
        rows.append(
            ["", f"SQNR {tuning.before_db:.1f} dB before, {tuning.after_db:.1f} dB after, on these samples"]
        )
    if tuning.interrupted:
        rows.append(["", "the training was interrupted: the best step so far counts"])
    if tuning.frozen:
        rows.append(
            ["", f"gradients end at {_some([f'{name} ({why})' for name, why in tuning.frozen.items()])}"]
        )
    return rows


def _output_rows(outputs: Outputs) -> list[list[str]]:
    """List the output error against float as rows."""
    worst = outputs.worst_part
    if worst is None:
        return []
    where = f" in '{worst.name}', the worst of {len(outputs.parts)} parts" if len(outputs.parts) > 1 else ""
    rows = [
        ["outputs", f"at least {worst.bound_db:.1f} dB SQNR against float expected on new samples{where}"]
    ]
    unseen = f", {outputs.unseen} of them not used for calibration or search" if outputs.unseen else ""
    closed = (
        f", in {outputs.sequences} sequences, each model with its own states"
        if outputs.sequences is not None
        else ""
    )
    rows.append(["", f"{worst.sqnr_db:.1f} dB on {outputs.samples} samples{unseen}{closed}"])
    others = sorted((part for part in outputs.parts if part is not worst), key=lambda part: part.bound_db)[:3]
    if others:
        rows.append(
            ["", "next worst: " + ", ".join(f"'{part.name}' {part.bound_db:.1f} dB" for part in others)]
        )
    if outputs.worst:
        share = sum(sample.noise_share for sample in outputs.worst)
        rows.append(
            ["", f"{share:.0%} of the noise is in {_some([sample.sample for sample in outputs.worst])}"]
        )
    for each in outputs.decisions:
        rows.append(
            [
                "decisions",
                f"{each.changed:.2%} of {each.count} changed, {each.expected:.2%} expected ('{each.output}')",
            ]
        )
    for node, share in outputs.selections.items():
        rows.append(["selection", f"{share:.1%} of entries equal ('{node}')"])
    return rows


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, {len(names) - most} more"


def eval_text(report: EvalReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the report of `onnxq eval`."""
    report = printable_report(report)
    labelled = f", {report.labelled} with a label" if report.labelled else ", no labels"
    parts = [
        table(eval_columns(report), width=width),
        f"{report.samples} samples{labelled}; output '{report.output}'",
    ]
    parts += [
        line
        for score in report.scores[1:]
        for line in (*_drop_lines(report, score), *_part_lines(score, verbose=verbose))
    ]
    if verbose:
        parts += [_worst(score) for score in report.scores[1:] if score.worst]
    parts[1:] = [_line(line, width) if "\n" not in line else line for line in parts[1:]]
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
            names = _some([sample.sample for sample in part.worst])
            lines.append(f"{score.model}: {share:.0%} of the noise of '{part.name}' is in {names}")
    for each in score.decisions:
        changed = f"{each.changed:.2%} of {each.count} decisions of '{each.output}' changed"
        lines.append(f"{score.model}: {changed}, {each.expected:.2%} expected from noise of this size")
    lines += [
        f"{score.model}: {share:.1%} of the entries that '{node}' selects are equal"
        for node, share in score.selections.items()
    ]
    if score.sequences is not None:
        lines.append(f"{score.model}: run in {score.sequences} sequences, each model with its own states")
    return lines


def eval_columns(report: EvalReport) -> list[list[str]]:
    """Make a header and one row per model, without columns that have no values."""
    names = dict.fromkeys(name for score in report.scores for name in score.metrics)
    columns: list[tuple[str, Callable[[ModelScore], str]]] = [
        *((name, lambda s, name=name: _metric(s, name)) for name in names),
        ("agreement", lambda s: _share(s.agreement)),
        (
            "SQNR dB",
            lambda s: _number(s.sqnr_db, "{:.2f}") + _since(s.sqnr_db, s.before.get("sqnr_db"), 1, "{:+.2f}"),
        ),
        ("cosine", lambda s: _number(s.cosine, "{:.5f}")),
        ("max error", lambda s: _number(s.max_error, "{:.3g}")),
        ("size", lambda s: size(s.bytes)),
        ("latency ms", lambda s: _number(s.latency_ms, "{:.3f}")),
        (
            "ratio",
            lambda s: (
                _number(s.latency_ratio, "{:.2f}")
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
    direction, unit = "worse" if value.drop > 0 else "better", " percentage points" if percent else ""
    verdict = "significant" if value.significant else "not significant"
    change = f"{report.metric} is {direction} by {abs(value.drop):.4g}{unit}"
    return [f"{score.model}: {change}: {verdict} (paired test, p = {value.p_value:.2g}); {interval}"]


def _worst(score: ModelScore) -> str:
    rows = [["worst samples", "SQNR dB", "label", "prediction"]]
    for worst in score.worst:
        same = worst.float_class == worst.other_class
        prediction = (
            "-"
            if worst.float_class is None
            else str(worst.float_class)
            if same
            else f"{worst.float_class} -> {worst.other_class}"
        )
        rows.append([worst.sample, f"{worst.sqnr_db:.1f}", worst.label or "-", prediction])
    return f"\n{score.model}\n{table(rows)}"


def _hide(row: int, column: str, cell: str) -> str:
    """Hide the error of the float model against itself."""
    return "-" if row == 0 and column in ("agreement", "SQNR dB", "cosine", "max error") else cell


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


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
        files.append([model.model, size(model.bytes), _number(model.load_ms, "{:.0f}"), memory])
    parts = [_line(head, width), table(rows, width=width), table(files, width=width)]
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
        numbers = [_number(each.expected_ms, "{:.3f}"), _number(ratio, "{:.2f}")]
        sizes = [str(each.batch), str(each.threads), str(each.float_nodes)]
        rows.append([each.model, each.cpu, *sizes, *numbers, _number(each.measured_ms, "{:.3f}")])
    counts = report.expected[0].uncounted
    missing = ", ".join(f"{count} {op_type}" for op_type, count in counts.items())
    note = [_line(f"nodes that count as 0 ms: {missing}", width)] if missing else []
    return [table(rows, left=2, width=width), *note]


def debug_text(report: DebugReport, *, verbose: bool = False, width: int | None = None) -> str:
    """Format the worst layers of `onnxq debug`, or all of them if `verbose`."""
    report = printable_report(report)
    shown = report.layers if verbose else report.worst
    rows = [["layer", "operator", "SQNR dB", "own dB", "min", "max", "clipped", "saturating"]]
    for row in shown:
        clipped = "-" if row.clipped is None else f"{row.clipped:.2%}"
        cells = [
            _number(row.sqnr_db, "{:.1f}"),
            _number(row.own_db, "{:.1f}"),
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
        names = f" ({_some(group.names)})" if verbose else ""
        reasons.append([group.op_type, str(len(group.names)), group.reason + names])
    floats = f"\n\n{table(reasons, left=3, width=width)}" if report.floats else ""
    return f"{head}\n\n{table(rows, width=width)}{floats}"
