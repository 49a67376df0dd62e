"""Forms for other engines, which ONNX Runtime's CPU kernels compute in float: 16-bit activations, bfloat16.

Such a file is verified like any other, as written. But nothing that depends on this runtime's integer kernels
decides about it: neither their times nor their saturation.
"""

from dataclasses import replace

from onnxq.errors import OnnxqError
from onnxq.options import ActivationType, Format, Mode, QuantizeOptions, Rounding, Technique, WeightType

WIDE_NOTE = (
    "16-bit activations are for other engines: ONNX Runtime's CPU kernels compute this file in float, with "
    "conversions between all nodes, slower than the float model"
)
BFLOAT16_NOTE = (
    "bfloat16 is for storage and other engines: ONNX Runtime widens it when it loads the file and computes "
    "in float32, no faster than the float model"
)


def for_other_engines(options: QuantizeOptions) -> QuantizeOptions:
    """Return the options with those that follow from types without an integer kernel.

    Raises:
        OnnxqError: another option does not fit such a type.
    """
    if options.mode == Mode.WEIGHTS and options.weight_type is WeightType.BFLOAT16:
        _check_bfloat16(options)
    if options.activation_type is ActivationType.UINT8:
        return options
    _check_wide(options)
    return replace(
        options,
        standard=True,
        skip_slow_nodes=False,
        keep_int8=True,
        without=(*options.without, Technique.NO_SATURATION, Technique.FINETUNING),
    )


def _check_wide(options: QuantizeOptions) -> None:
    """Raise an `OnnxqError` for an option that needs this runtime's integer kernels."""
    wanted = f"--activation-type {options.activation_type}"
    if options.mode != Mode.STATIC:
        raise OnnxqError(
            f"{wanted}: activations are stored with --mode static only, and the mode is {options.mode}: "
            "leave one of them out"
        )
    if options.format != Format.QDQ:
        raise OnnxqError(
            f"{wanted}: --format {options.format} has operators of 8 bits only: choose --format qdq"
        )
    if options.measure:
        raise OnnxqError(f"{wanted}: --measure times integer kernels, and there are none: leave it out")
    if options.dynamic_lstm:
        raise OnnxqError(
            f"{wanted}: --dynamic-lstm writes an operator of ONNX Runtime alone: leave one of them out"
        )


def _check_bfloat16(options: QuantizeOptions) -> None:
    """Raise an `OnnxqError` for an option of integer weights."""
    given = {
        f"--rounding {options.rounding}": options.rounding != Rounding.AUTO,
        f"--block {options.block}": options.block != QuantizeOptions.block,
        "--affine": not options.symmetric,
    }
    for option, asked in given.items():
        if asked:
            raise OnnxqError(
                f"--weight-type bfloat16: {option} is of integer weights, and bfloat16 has no scales: "
                "leave it out"
            )
