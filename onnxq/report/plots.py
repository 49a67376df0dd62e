"""Plots of a report as one PNG file."""

import io
from typing import Any

import numpy as np

from onnxq.evaluation.report import EvalReport
from onnxq.evaluation.scores.kinds import in_percent
from onnxq.report.charts import axis
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import QuantizeReport

SHOWN = 12
"""Most histograms, those with the largest clipped share."""


def plots(report: QuantizeReport | EvalReport) -> bytes:
    """Plot a report; no name becomes a formula, and a matplotlibrc in the current folder has no effect."""
    import matplotlib as mpl

    report = printable_report(report)
    mpl.rcdefaults()
    mpl.use("agg")
    mpl.rcParams["text.parse_math"] = False  # a dollar sign in a name is no formula
    from matplotlib import pyplot as plt

    figure = _eval_figure(plt, report) if isinstance(report, EvalReport) else _quantize_figure(plt, report)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()


def _eval_figure(plt: Any, report: EvalReport) -> Any:
    """Plot each model's first metric with its interval, or its SQNR, over latency; the legend is outside."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    percent = report.metric is not None and in_percent(report.metric)
    scale, heights = 100 if percent else 1, []
    for score in report.scores:
        value = score.metrics.get(report.metric or "")
        height = value.value if value is not None else score.sqnr_db
        if height is None:
            continue
        spread = [[value.value - value.low], [value.high - value.value]] if value is not None else None
        heights += [value.low, value.high] if value is not None else [height]
        name = score.model.rpartition("/")[2]
        axes.errorbar(
            score.latency_ratio or 1.0,
            height * scale,
            yerr=np.multiply(spread, scale) if spread is not None else None,
            fmt="o",
            capsize=4,
            label=f"{name}: {height * scale:.4g}, {score.latency_ratio or 1.0:.2f}x",
        )
    if heights:  # noise of equal models must not fill the plot
        shown = axis([each * scale for each in heights], highest=100.0 if percent else np.inf)
        axes.set_ylim(shown.low, shown.high + 0.05 * (shown.high - shown.low))
    axes.ticklabel_format(useOffset=False)
    axes.axvline(1.0, color="0.6", lw=1, ls="--")
    label = f"{report.metric}, %" if percent else report.metric or "SQNR, dB"
    axes.set(xlabel="latency / float", ylabel=label, title=f"{report.samples} samples")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def _quantize_figure(plt: Any, report: QuantizeReport) -> Any:
    """Plot error and time of each layer, and histograms with clipping ranges."""
    shown = sorted(report.histograms, key=lambda row: -row.clipped)[:SHOWN]
    rows = 2 + (len(shown) + 3) // 4
    figure = plt.figure(figsize=(12, 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 4)
    error, times = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    layers = list(enumerate(row for row in report.layers if row.macs or row.planned))
    error.plot(
        [i for i, row in layers if row.sqnr_db is not None],
        [row.sqnr_db for _, row in layers if row.sqnr_db is not None],
        "o-",
        ms=3,
    )
    error.set(ylabel="SQNR, dB", title=f"{report.output}: error of each layer, in graph order")
    for shift, key, label in ((-0.2, "float_ms", "float"), (0.2, "int8_ms", "int8")):
        times.bar(
            [i + shift for i, _ in layers], [getattr(row, key) or 0 for _, row in layers], 0.4, label=label
        )
    times.set(ylabel="ms", title="kernel time of each layer, one thread")
    times.legend()
    for i, row in enumerate(shown):
        axes = figure.add_subplot(grid[2 + i // 4, i % 4])
        step = (row.maximum - row.minimum) / len(row.counts) or 1.0
        axes.bar([row.minimum + step * (k + 0.5) for k in range(len(row.counts))], row.counts, step)
        for end in (row.low, row.high):
            axes.axvline(end, color="C3", lw=1)
        axes.set_yscale("symlog")
        axes.set_title(f"{row.name[-28:]}, {row.clipped:.2%} clipped", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure
