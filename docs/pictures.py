"""Pictures of docs/quantization.md, drawn from numbers that onnxq computes."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from onnxq.calibration.methods import METHODS, MethodOptions, choose_range
from onnxq.calibration.sketch import Sketch, measure
from onnxq.techniques.arithmetic import asymmetric_params, dequantize, quantize

mpl.use("svg")
mpl.rcParams.update(
    {"svg.hashsalt": "onnxq", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
)
from matplotlib import pyplot as plt  # noqa: E402

RANDOM = np.random.default_rng(0)


def draw(folder: Path) -> None:
    """Write each picture as SVG without a date: the same numbers give the same bytes."""
    for name, figure in (
        ("schemes", schemes()),
        ("granularity", granularity()),
        ("methods", methods()),
        ("saturation", saturation()),
    ):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def schemes() -> plt.Figure:
    """Compare affine and symmetric quantization of the values behind a ReLU."""
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    x = np.linspace(-0.2, 6.2, 1000)
    steps = 15  # 4 bits: the steps are visible
    for label, low, high in (
        ("affine: zero point at the end", 0.0, 6.0),
        ("symmetric: half of the steps unused", -6.0, 6.0),
    ):
        step = (high - low) / steps
        axes.plot(x, np.clip(np.round((x - low) / step) * step + low, low, high), label=label)
    axes.plot(x, x, color="0.7", lw=0.8)
    axes.set(xlabel="value", ylabel="stored value", title="16 steps for values from 0 to 6")
    axes.legend(frameon=False)
    return figure


def granularity() -> plt.Figure:
    """Compare the error of per-tensor and per-channel weights whose channels differ in size."""
    spread = 10 ** np.linspace(-1.5, 0, 16)
    weights = RANDOM.normal(size=(16, 256)) * spread[:, None]
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    per_tensor = np.abs(weights).max() / 127
    per_channel = np.abs(weights).max(1, keepdims=True) / 127
    for label, scale in (("one scale a tensor", per_tensor), ("one scale a channel", per_channel)):
        error = np.round(weights / scale) * scale - weights
        axes.plot(10 * np.log10((weights**2).sum(1) / (error**2).sum(1)), "o-", ms=3, label=label)
    axes.set(xlabel="channel, smallest weights first", ylabel="SQNR, dB", title="8-bit weights")
    axes.legend(frameon=False)
    return figure


def methods() -> plt.Figure:
    """Show the clipping range of each calibration method for a long-tailed tensor, and its SQNR."""
    values = np.concatenate(
        [RANDOM.normal(size=100_000), RANDOM.laplace(scale=2.5, size=2_000), [38.0]]
    ).astype(np.float32)
    sketch = Sketch()
    measured = measure(values)
    assert measured is not None
    sketch.count(measured.bins)
    sketch.add_range(measured)
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.hist(values, 200, color="0.75")
    axes.set_yscale("log")
    for k, method in enumerate(METHODS):
        low, high = choose_range(sketch, method, MethodOptions(99.99))
        params = asymmetric_params(low, high)
        error = dequantize(quantize(values, params), params) - values
        sqnr = 10 * np.log10((values**2).sum() / (error**2).sum())
        height = 10 ** (4.6 - 0.55 * k)
        axes.plot([low, high], [height, height], "|-", color=f"C{k}", ms=12)
        axes.text(high + 0.5, height, f"{method}: {sqnr:.1f} dB", va="center", color=f"C{k}")
    axes.set(
        xlabel="value", ylabel="count", xlim=(-25, 62), title="one tensor with a long tail and one outlier"
    )
    return figure


def saturation() -> plt.Figure:
    """Show the sum of two products in saturating int16, as on x86 CPUs without VNNI."""
    weight = np.arange(0, 128)
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    exact = 255 * weight * 2
    axes.plot(weight, exact, label="exact", color="0.6")
    axes.plot(weight, np.minimum(exact, 32767), label="the instruction's result")
    axes.axvline(64, color="C3", lw=0.8)
    axes.text(65, 5000, "onnxq keeps pairs of weights\nat |a| + |b| <= 128", color="C3")
    axes.set(xlabel="both weights of a pair (activations 255)", ylabel="sum of the two products")
    axes.legend(frameon=False)
    return figure
