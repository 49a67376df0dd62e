"""Rows taken of an activation: the layer multiplies its weights with exactly these."""

import numpy as np
import pytest

from onnxq.calibration.moments import LayerInput, Moments, empty_moments, layer_input, take_rows
from onnxq.normalize.passes import normalize
from onnxq.techniques.saturation import kernel_order
from tests.conftest import normal, parse, run, to_ir


@pytest.mark.parametrize(
    ("attributes", "weight", "size"),
    [
        ("", (6, 4, 1, 1), (9, 7)),
        ("pads=[1,1,1,1]", (6, 4, 3, 3), (9, 7)),
        ("pads=[0,1,2,1], strides=[2,1]", (6, 4, 3, 2), (9, 7)),
        ("dilations=[2,3]", (6, 4, 2, 3), (9, 9)),
        ("group=2, pads=[1,1,1,1]", (6, 2, 3, 3), (8, 8)),
        ("group=4, pads=[2,2,2,2]", (4, 1, 5, 5), (8, 8)),
        ('auto_pad="SAME_UPPER", strides=[2,2]', (6, 4, 3, 3), (9, 8)),
        ('auto_pad="SAME_LOWER"', (6, 4, 2, 4), (9, 8)),
        ("pads=[1,1]", (6, 4, 3), (20,)),
    ],
)
def test_patches_times_weights_are_the_convolution(rng, attributes, weight, size):
    axes = ",".join(map(str, size))
    tag = f"<{attributes}>" if attributes else ""
    outputs = ",".join("ABC"[: len(size)])
    model = parse(
        f"g (float[2,4,{axes}] x) => (float[2,{weight[0]},{outputs}] y) {{ y = Conv{tag}(x, w) }}",
        {"w": normal(rng, *weight)},
    )
    x = normal(rng, 2, 4, *size)
    (y,) = run(model, {"x": x})
    node = normalize(to_ir(model)).graph.node(0)
    layer = layer_input(node, "x")
    assert layer is not None
    positions = y.size // y.shape[1]
    rows = take_rows(layer, x, positions, 0)  # all of them, in order
    kernel = kernel_order(node.inputs[1].const_value.numpy(), 0).reshape(layer.groups, -1, layer.size)
    product = np.einsum("pgk,gck->pgc", rows, kernel).reshape(positions, -1)
    expected = np.moveaxis(y, 1, -1).reshape(positions, -1)
    assert np.abs(product - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("text", "shape"), [("MatMul(x, w)", (2, 3, 8)), ("Gemm(x, w)", (5, 8)), ("Gemm<transA=1>(x, w)", (8, 5))]
)
def test_rows_of_products(rng, text, shape):
    dims, outputs = (",".join(map(str, s)) for s in (shape, (2, 3, 6) if len(shape) == 3 else (5, 6)))
    model = parse(f"g (float[{dims}] x) => (float[{outputs}] y) {{ y = {text} }}", {"w": normal(rng, 8, 6)})
    x = normal(rng, *shape)
    node = normalize(to_ir(model)).graph.node(0)
    rows = take_rows(layer_input(node, "x"), x, 10**6, 3)
    assert rows.shape[1:] == (1, 8)
    assert (
        np.abs(rows[:, 0] @ node.inputs[1].const_value.numpy() - run(model, {"x": x})[0].reshape(-1, 6)).max()
        < 1e-4
    )


def test_a_part_of_the_rows_comes_from_all_over(rng):
    layer = LayerInput("x", 1, 1)
    x = np.arange(10_000, dtype=np.float32).reshape(-1, 1)
    rows = take_rows(layer, x, 64, 5)[:, 0, 0]
    assert len(set(rows)) == 64
    assert rows.max() - rows.min() > 7000


def test_moments_are_those_of_all_rows(rng):
    x = rng.normal(1, 2, (3000, 2, 7)).astype(np.float32)
    moments = Moments.of(LayerInput("x", 2, 7), second=True)
    for start in range(0, 3000, 170):
        moments.add(x[start : start + 170])
    for g in range(2):
        assert moments.mean()[g] == pytest.approx(x[:, g].mean(axis=0), rel=1e-3)
        assert moments.covariance()[g] == pytest.approx(np.cov(x[:, g].T, bias=True), abs=2e-2)


@pytest.mark.filterwarnings("error")
def test_divided_moments_of_channels_that_are_next_to_nothing_are_numbers(rng):
    x = normal(rng, 200, 1, 4)
    x[..., 0] *= np.float32(1e-38)
    moments = Moments.of(LayerInput("x", 1, 4), second=True)
    moments.add(x)
    found = moments.divided(np.array([1e-27, 2, 4, 8])).raw()[0]
    assert found[1:, 1:] == pytest.approx(moments.raw()[0, 1:, 1:] / np.outer([2, 4, 8], [2, 4, 8]), rel=1e-6)
    assert found[0, 0] == 0
    assert np.isfinite(found).all()


@pytest.mark.filterwarnings("error")
def test_moments_without_rows_are_zero_or_unknown():
    moments = Moments.of(LayerInput("x", 2, 3), second=True)
    moments.add(np.full((5, 2, 3), np.nan, np.float32))
    divided = moments.divided(np.full((2, 3), 0.5))
    for each in (moments, divided):
        assert (each.mean() == 0).all()
        assert (each.power() == 0).all()
        assert each.raw() is each.covariance() is None


def test_second_moments_stop_where_memory_does():
    small, huge = LayerInput("a", 1, 100), LayerInput("b", 1, 10_000)
    moments = empty_moments([small, huge, small], second=True)
    assert moments[small].second is not None
    assert moments[huge].second is None
    assert empty_moments([small], second=False)[small].second is None
