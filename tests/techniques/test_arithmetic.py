import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from onnxq.techniques.arithmetic import (
    asymmetric_params,
    bias_params,
    clamped_params,
    dequantize,
    quantize,
    quantize_bias,
    smallest_sum_scale,
    smallest_weight_scale,
    symmetric_scale,
)
from onnxq.types import INT8, QuantParams

values = st.floats(-1e6, 1e6, width=32)
tensors = arrays(np.float32, array_shapes(max_dims=3), elements=values)


@given(tensors)
def test_error_is_at_most_half_a_step_and_zero_is_exact(x):
    params = asymmetric_params(float(x.min()), float(x.max()))
    restored = dequantize(quantize(x, params), params)
    assert np.abs(restored.astype(np.float64) - x).max() <= float(params.scale) * 0.5001
    zero = np.zeros(1, np.float32)
    assert dequantize(quantize(zero, params), params)[0] == 0


@given(tensors)
def test_symmetric_per_channel_error(x):
    rows = x.reshape(x.shape[0], -1)
    scale = symmetric_scale(np.abs(rows).max(axis=1))
    params = QuantParams(INT8, scale, np.zeros(len(scale), np.int8), 0)
    restored = dequantize(quantize(rows, params), params)
    assert (np.abs(restored.astype(np.float64) - rows) <= scale[:, None] * 0.5001).all()
    assert quantize(rows, params).min(initial=0) >= -127


@given(values, values)
def test_scale_is_never_zero_denormal_or_nan(a, b):
    params = asymmetric_params(min(a, b), max(a, b))
    assert np.isfinite(params.scale)
    assert params.scale >= 2.0**-100


def test_a_tensor_of_zeros_has_scale_one():
    assert asymmetric_params(0, 0).scale == 1
    assert (symmetric_scale(np.array([0.0, 1e-40])) == 1).all()


bounds = st.one_of(st.just(0.0), st.floats(1e-3, 100))


@given(st.floats(-100, 0), st.floats(0, 100), bounds.map(lambda x: -x), bounds)
def test_clamped_range_lies_inside_the_bounds(low, high, least, most):
    params = clamped_params(low, high, (least, most))
    if params is None:
        assert most == least == 0
        return
    zero, scale = int(params.zero_point), float(params.scale)
    assert -zero * scale >= least
    assert (255 - zero) * scale <= most


def test_relu6_gets_the_whole_type():
    params = clamped_params(0.0, 6.0, (0.0, 6.0))
    assert params is not None
    assert int(params.zero_point) == 0
    assert 5.999999 < float(params.scale) * 255 <= 6


def test_a_clamp_that_excludes_zero_has_no_parameters():
    assert clamped_params(1.0, 6.0, (1.0, 6.0)) is None
    assert clamped_params(-6.0, -1.0, (-6.0, -1.0)) is None


@given(st.floats(-1e4, 1e4, width=32), st.floats(2.0**-20, 8, width=32), st.floats(2.0**-20, 8, width=32))
def test_bias_never_overflows_with_the_scale_it_asks_for(bias, input_scale, weight_scale):
    b, s = np.array([bias], np.float32), np.float32(input_scale)
    scale = np.maximum(np.float32([weight_scale]), smallest_weight_scale(b, s))
    params = bias_params(s, scale)
    stored = quantize_bias(b, params)
    assert abs(int(stored[0])) <= 2**30 + 2**8
    assert (
        abs(float(stored[0]) * float(params.scale[0]) - bias)
        <= float(params.scale[0]) * 0.5001 + abs(bias) * 1e-6
    )


def test_rounding_is_half_to_even():
    params = asymmetric_params(0, 255)
    assert quantize(np.float32([0.5, 1.5, 2.5]), params).tolist() == [0, 2, 2]


@pytest.mark.parametrize("bias", [0.0, 1e8, -3e8])
@pytest.mark.parametrize("size", [100, 40_000, 150_528])
def test_no_sum_of_products_overflows_with_the_scale_it_asks_for(size, bias):
    rng = np.random.default_rng(0)
    rows = np.stack([np.full(size, 1 / size), rng.uniform(-1, 1, size)]).astype(np.float32)
    steps = np.full(2, bias) * (1 / size)
    scale = symmetric_scale(np.abs(rows).max(axis=1))
    least = smallest_sum_scale(rows, steps)
    assert (least is None) == (size == 100)
    scale = np.maximum(scale, smallest_weight_scale(steps, np.float32(1)))
    scale = scale if least is None else np.maximum(scale, least)
    stored = np.rint(rows / scale[:, None]).astype(np.int64)
    sums = 255 * np.abs(stored).sum(axis=1) + np.abs(steps / scale)
    assert (sums < 2**31).all()
    assert np.abs(stored).max() > 40  # no wider than it takes
