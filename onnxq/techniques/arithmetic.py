"""Affine quantization arithmetic: scales, zero points, quantize and dequantize.

The formulas are those of the ONNX operators QuantizeLinear and DequantizeLinear (opset 13):
q = saturate(round_half_even(x / scale) + zero_point), x' = (q - zero_point) * scale.
"""

import numpy as np

from onnxq.techniques.row_blocks import by_blocks
from onnxq.types import INT8, INT32, UINT8, Array, Floats, Integers, IntegerType, QuantParams

LONGEST_SUM = 1 << 22
"""Largest number of products that are added up as integers."""
TINY = np.float32(2.0**-100)
"""A smaller scale counts as zero and is replaced by 1; no scale is a denormal number."""


def asymmetric_params(low: float, high: float, kind: IntegerType = UINT8) -> QuantParams:
    """Return per-tensor parameters for [low, high], widened to hold 0, which is exactly representable.

    Rounding the zero point may cut up to half a step off one end, so every value in the range is
    still at most half a step from its quantized one.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    steps = kind.high - kind.low
    scale = high / steps - low / steps
    if not np.isfinite(scale) or scale < TINY:
        scale = 1.0
    zero_point = int(np.clip(np.rint(kind.low - low / scale), kind.low, kind.high))
    return QuantParams(kind, np.array(scale, np.float32), np.array(zero_point, kind.dtype))


def range_params(low: float, high: float, kind: IntegerType) -> QuantParams:
    """Return per-tensor parameters for [low, high]: of a signed type with zero point 0, else asymmetric."""
    if kind.low == 0:
        return asymmetric_params(low, high, kind)
    scale = symmetric_scale(np.array(max(abs(low), abs(high))), kind)
    return QuantParams(kind, scale, np.array(0, kind.dtype))


def clamped_params(
    low: float, high: float, bounds: tuple[float, float], kind: IntegerType = UINT8
) -> QuantParams | None:
    """Return parameters for the output of a clamp whose representable range lies inside `bounds`.

    The integer type then saturates before the clamp does, so the runtime can drop the clamp. None where
    no such parameters exist (0 outside the bounds, or zero point 0 of a signed type).
    """
    least, most = bounds
    if least > 0 or most < 0 or kind.low < 0:
        return None
    params = asymmetric_params(max(low, least), min(high, most), kind)
    zero_point = int(params.zero_point)
    if least == 0:
        zero_point = kind.low
    if most == 0:
        zero_point = kind.high
    scale = float(params.scale)
    for bound, count in ((most, kind.high - zero_point), (-least, zero_point - kind.low)):
        if count and scale * count > bound:
            scale = bound / count
    scale32 = np.float32(scale)
    while (
        np.float64(scale32) * (kind.high - zero_point) > most
        or np.float64(scale32) * (zero_point - kind.low) > -least
    ):
        scale32 = np.nextafter(scale32, np.float32(0))
    if scale32 < TINY:
        return None
    return QuantParams(kind, np.array(scale32, np.float32), np.array(zero_point, kind.dtype))


def ramp_params(low: float, high: float, alpha: float, beta: float, kind: IntegerType = UINT8) -> QuantParams:
    """Return parameters for [low, high] whose integers also represent clip(alpha x + beta, 0, 1).

    The range is widened to the start of the ramp, x = -beta / alpha, and a little more, so that the start
    is a stored integer: then the ramp's zero point is exact.
    """
    begin = -beta / alpha
    plain = asymmetric_params(min(low, begin), max(high, 0.0), kind)
    steps = int(np.floor(-begin / float(plain.scale)))
    if steps < 1:
        return plain  # the ramp begins within a step of zero: its zero point is rounded
    scale = -begin / steps
    zero_point = int(np.clip(np.rint(kind.low - min(low, begin) / scale), kind.low + steps, kind.high))
    return QuantParams(kind, np.array(scale, np.float32), np.array(zero_point, kind.dtype))


def ramp_result(params: QuantParams, alpha: float, beta: float) -> QuantParams:
    """Return parameters that read the integers of x, clipped to `clip_bounds`, as the ramp's result."""
    scale = float(params.scale) * alpha
    zero_point = int(
        np.clip(np.rint(int(params.zero_point) - beta / scale), params.type.low, params.type.high)
    )
    return QuantParams(params.type, np.array(scale, np.float32), np.array(zero_point, params.type.dtype))


def clip_bounds(ramp: QuantParams) -> tuple[int, int]:
    """Return the integers that stand for 0 and 1."""
    zero = int(ramp.zero_point)
    return zero, int(np.clip(zero + np.rint(1 / float(ramp.scale)), zero + 1, ramp.type.high))


def symmetric_scale(largest: Array, kind: IntegerType = INT8) -> Floats:
    """Return scales that just represent +-`largest` (any shape, >= 0); 1 where it is zero."""
    scale = np.asarray(largest, np.float64) / kind.high
    return np.where(scale < TINY, 1.0, scale).astype(np.float32)


_SHRINKING = np.arange(1.0, 0.4, -0.02)
"""Multiples of a channel's scale to try."""


@by_blocks
def least_error_scales(rows: Floats, scales: Floats, limit: int) -> Floats:
    """Return the scales [channels], at most those given, with the least squared rounding error.

    With few bits, a finer grid gains more than the largest weights lose where they are clipped.

    Args:
        rows: weights [channels, K].
        scales: scales that just represent the largest weights.
        limit: largest magnitude of the integers.
    """
    best, best_error = scales, np.full(len(scales), np.inf)
    for factor in _SHRINKING:
        tried = (scales * factor).astype(np.float32)
        stored = np.clip(np.rint(rows / tried[:, None]), -limit, limit)
        error = np.square(stored * tried[:, None] - rows).sum(axis=1, dtype=np.float64)
        better = error < best_error
        best, best_error = np.where(better, tried, best), np.where(better, error, best_error)
    return best


def along(values: Array, axis: int | None, rank: int) -> Array:
    """Reshape `values` ([channels] or scalar) to broadcast along `axis` of an array of rank `rank`."""
    if axis is None or values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def quantize(x: Array, params: QuantParams) -> Integers:
    """Return the stored integers of `x`, rounded half to even and saturated to the type's range."""
    scale = along(params.scale, params.axis, x.ndim)
    zero_point = along(params.zero_point, params.axis, x.ndim).astype(np.float32)
    steps = np.rint(np.asarray(x, np.float32) / scale) + zero_point
    return np.clip(steps, params.type.low, params.type.high).astype(params.type.dtype)


def dequantize(q: Integers, params: QuantParams) -> Floats:
    """Return the real values (float32) of stored integers."""
    scale = along(params.scale, params.axis, q.ndim)
    zero_point = along(params.zero_point, params.axis, q.ndim).astype(np.int32)
    return ((q.astype(np.int32) - zero_point).astype(np.float32) * scale).astype(np.float32)


def bias_params(input_scale: Floats, weight_scale: Floats) -> QuantParams:
    """Return int32 parameters of a bias: kernels add it to the accumulator, so scale = s_x * s_w exactly."""
    scale = np.asarray(input_scale * weight_scale, np.float32)
    return QuantParams(INT32, scale, np.zeros(scale.shape, np.int32), 0 if scale.ndim else None)


def quantize_bias(bias: Array, params: QuantParams) -> Integers:
    """Return the int32 bias, rounded in float64 so that large values keep their digits."""
    steps = np.rint(np.asarray(bias, np.float64) / params.scale.astype(np.float64))
    return np.clip(steps, INT32.low, INT32.high).astype(np.int32)


def smallest_sum_scale(rows: Floats, bias: Array | None) -> Floats | None:
    """Return the least weight scales [channels] with which no int32 sum of products overflows; None for any.

    A kernel adds up to 255 steps of each weight, and the bias. Rounding moves a weight by less than a step.

    Args:
        rows: weights [channels, K].
        bias: bias in steps of the activation, [channels].
    """
    size = rows.shape[1]
    if size * UINT8.high * INT8.high < 2**30:  # the bias has the other half of int32's range
        return None
    largest = UINT8.high * np.array([np.abs(row).sum(dtype=np.float64) for row in rows])
    whole = largest + (0.0 if bias is None else np.abs(bias))
    return np.asarray(whole / (INT32.high - UINT8.high * size), np.float32) * np.float32(1.001)


def smallest_weight_scale(bias: Array, input_scale: Floats | np.float32) -> Floats:
    """Return the least weight scale per channel that keeps the bias within half of int32's range."""
    limit = 2.0**30 * float(input_scale)
    return (np.abs(np.asarray(bias, np.float64)) / limit).astype(np.float32)
