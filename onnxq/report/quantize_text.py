"""The report of `onnxq quantize` as a table for a terminal."""

from onnxq.comparison.caches import described
from onnxq.evaluation.scores.kinds import drop_unit
from onnxq.evaluation.verification import Outputs
from onnxq.plan.operators import INTEGER_KERNELS
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import Drop, QuantizeReport
from onnxq.report.tables import number, size, some, table
from onnxq.search.mixed_precision import Fallback
from onnxq.search.trial import Finetuning


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
        lost = [number(point.drop, "{:.2f}")] if drops else []
        cells = [
            number(point.sqnr_db, "{:.1f}"),
            *lost,
            number(point.latency, "{:.2f}"),
            f"{point.size:.2f}",
        ]
        rows.append([point.name, *cells, "kept" if point.kept else ""])
    return table(rows, width=width)


def quantize_rows(report: QuantizeReport, *, verbose: bool = False) -> list[list[str]]:
    """List the result of `onnxq quantize` as rows of a name and a text."""
    rows = _file_rows(report)
    rows += _finetuning_rows(report.finetuning) if report.finetuning is not None else []
    rows += _kernel_rows(report)
    rows += _output_rows(report.outputs) if report.outputs is not None else []
    rows += _measured_rows(report)
    rows += [["note" if i == 0 else "", note] for i, note in enumerate(report.notes)]
    rows += _float_rows(report, verbose=verbose)
    rows.append(["time", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())])
    return rows


def _file_rows(report: QuantizeReport) -> list[list[str]]:
    """List the file, its size and how it was made."""
    ratio = report.bytes_after / report.bytes_before
    rows = [
        ["wrote", report.output],
        ["size", f"{size(report.bytes_before)} -> {size(report.bytes_after)} ({ratio:.2f}x)"],
    ]
    if report.mode != "static":
        samples = f"{report.samples} samples" if report.samples else "no calibration data"
        rows.append(["mode", f"{report.mode}, {samples}"])
    elif report.planned:
        method = report.method if report.percentile is None else f"{report.method} {report.percentile:g}"
        rows.append(["ranges", f"{method}, {report.samples} samples"])
    if report.planned or report.techniques:
        techniques = ", ".join(name.replace("-", " ") for name in report.techniques)
        rows.append(["weights", techniques or "rounded to nearest"])
    return rows


def _kernel_rows(report: QuantizeReport) -> list[list[str]]:
    """List the integer kernels that run, and their share of the work."""
    kernels = report.kernels
    integer = ", ".join(
        f"{name} {count}" for name, count in kernels.counts.items() if name in INTEGER_KERNELS
    )
    planned = f"{kernels.integer_share:.1%} of the MACs of {report.planned} planned nodes"
    share = f"{kernels.model_share:.1%} of the model's MACs" if integer else "the file has no integer kernels"
    known = kernels.model_share > 0 or not integer  # without samples, open sizes hide the MACs
    rows = [
        ["integer", ", ".join([*([planned] if report.planned else []), *([share] if known else [])])],
        ["kernels", f"{integer or 'none'}; {kernels.leftover} Q/DQ nodes left"],
    ]
    if kernels.requantizations:
        rows.append(["requantized", f"{len(kernels.requantizations)}: {some(kernels.requantizations)}"])
    return rows


def _measured_rows(report: QuantizeReport) -> list[list[str]]:
    """List the drop of the task's metric and the latency."""
    rows = []
    if report.drop is not None:
        points = report.drop.points
        amount = f"{abs(points):.2f}{drop_unit(report.drop.metric)}"
        change = f"is {amount} {'worse' if points > 0 else 'better'} than float"
        rows.append(
            ["metric", f"{report.drop.metric} {change if abs(points) >= 0.005 else 'does not change'}"]
        )
    if report.latency is not None:
        times = f"{report.latency.int8_ms:.3g} ms, float {report.latency.float_ms:.3g} ms"
        rows.append(["latency", f"{report.latency.ratio:.2f}x of float ({times}; one thread, this machine)"])
    return rows


def _float_rows(report: QuantizeReport, *, verbose: bool) -> list[list[str]]:
    """List the nodes that stay float, and why."""
    rows, fallback = [], report.fallback
    if fallback is not None and fallback.nodes:
        rows.append(["kept float", _fallback_text(fallback, report.drop)])
    shown = report.floats if verbose else report.floats[:5]
    for i, group in enumerate(shown):
        names = f" ({some(group.names)})" if verbose else ""
        rows.append(["float" if i == 0 else "", f"{len(group.names)} {group.op_type}: {group.reason}{names}"])
    hidden = sum(len(group.names) for group in report.floats[len(shown) :])
    if hidden:
        rows.append(["", f"{hidden} more nodes; -v lists them"])
    return rows


def _fallback_text(fallback: Fallback, drop: Drop | None) -> str:
    """Describe the nodes left in float for accuracy, and what that gains in the user's metric or in SQNR."""
    nodes = "1 node" if len(fallback.nodes) == 1 else f"{len(fallback.nodes)} nodes"
    kept = f"{nodes} with {fallback.mac_share:.1%} of the MACs"
    drops = {step.nodes: step.drop for step in fallback.steps}
    before, after = drops.get(()), drops.get(fallback.nodes)
    if drop is not None and before is not None and after is not None:
        change = f"{drop.metric} drops by {before:.2f} with all in int8, by {after:.2f} so"
        return f"{kept}: in the search {change}"
    change = f"{fallback.before_db:.1f} dB with all in int8, {fallback.after_db:.1f} dB so"
    return f"{kept}: estimated SQNR {change}"


def _finetuning_rows(tuning: Finetuning) -> list[list[str]]:
    """List what finetuning did as rows."""
    bits = " then ".join(map(str, tuning.bits))
    trained = f"{tuning.weights} weights, {tuning.biases} biases, {tuning.scales} scales"
    how = f"{tuning.steps} steps of {tuning.batch} samples ({trained}; {bits} bits)"
    how = f"{tuning.layers} layers reconstructed, {how}" if tuning.layers else how
    done = f"{how}: {tuning.reason}" if tuning.steps else tuning.reason
    rows = [["finetuned" if tuning.kept else "not finetuned", done]]
    if tuning.before_db is not None and tuning.after_db is not None:
        gain = f"SQNR {tuning.before_db:.1f} dB before, {tuning.after_db:.1f} dB after"
        rows.append(["", f"{gain}, on {tuning.unseen} unseen sample{'s' * (tuning.unseen != 1)}"])
    if tuning.labels:
        rows.append(["", f"with the labels of {tuning.labels} of {tuning.samples} samples"])
    if tuning.interrupted:
        rows.append(["", "the training was interrupted: the best step so far counts"])
    if tuning.frozen:
        rows.append(
            ["", f"gradients end at {some([f'{name} ({why})' for name, why in tuning.frozen.items()])}"]
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
            ["", f"{share:.0%} of the noise is in {some([sample.sample for sample in outputs.worst])}"]
        )
    if outputs.caches:
        rows.append(["caches", described(outputs.caches)])
    for each in outputs.decisions:
        rows.append(
            [
                "decisions",
                f"{each.changed:.2%} of {each.count} changed, {each.expected:.2%} expected ('{each.output}')",
            ]
        )
    if outputs.boxes is not None:
        found = outputs.boxes
        rows.append(["boxes", f"agree with float's by {found.f1:.1%} (F1; {found.boxes} boxes, IoU 0.5)"])
    for node, share in outputs.selections.items():
        rows.append(["selection", f"{share:.1%} of entries equal ('{node}')"])
    return rows
