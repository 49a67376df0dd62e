"""The registry of techniques, and the sets of techniques that a search tries."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from onnxq.options import Effort, QuantizeOptions, Rounding, Technique
from onnxq.quantization.weights import WeightOptions
from onnxq.techniques.bias_correction import output_shift
from onnxq.techniques.blockwise import Coded, Grid, round_to_nearest
from onnxq.techniques.gptq import gptq_round
from onnxq.techniques.gptq_blocks import gptq_blocks
from onnxq.techniques.hqq import half_quadratic
from onnxq.transforms.algorithm import Algorithm, Needs
from onnxq.transforms.awq import scale_inputs
from onnxq.transforms.equalization import equalize
from onnxq.transforms.smoothquant import smooth
from onnxq.types import Floats

NEVER: frozenset[Effort] = frozenset()
THOROUGH = frozenset({Effort.BALANCED, Effort.BEST})


def _nearest(rows: Floats, grid: Grid, _second: Floats | None) -> Coded:
    return round_to_nearest(rows, grid)


def _half_quadratic(rows: Floats, grid: Grid, _second: Floats | None) -> Coded:
    return half_quadratic(rows, grid)


def _gptq(rows: Floats, grid: Grid, second: Floats | None) -> Coded:
    return round_to_nearest(rows, grid) if second is None else gptq_blocks(rows, second, grid)


ALGORITHMS: dict[str, Algorithm] = {
    each.name: each
    for each in (
        Algorithm(Technique.GPTQ, Needs.SECOND_MOMENTS, THOROUGH, round=gptq_round, code=_gptq),
        Algorithm(Technique.BIAS_CORRECTION, Needs.MEANS, shift=output_shift),
        Algorithm(
            Technique.SMOOTHING, Needs.MEANS, rewrite=smooth, reaches=lambda layer: layer.kernel is None
        ),
        Algorithm(
            Technique.EQUALIZATION,
            Needs.MEANS,
            THOROUGH,
            rewrite=equalize,
            reaches=lambda layer: layer.kernel is not None,
        ),
        Algorithm(Rounding.RTN, efforts=NEVER, code=_nearest),
        Algorithm(Rounding.HQQ, efforts=NEVER, code=_half_quadratic),
        Algorithm(Rounding.AWQ, Needs.SECOND_MOMENTS, NEVER, code=_nearest, rewrite=scale_inputs),
    )
}
"""Every technique by its name, the most promising of each kind first; a new technique is one entry."""


def technique_names() -> list[str]:
    """Return the names that `--without` takes."""
    names = [str(each) for each in Technique]
    return names + [each.name for each in ALGORITHMS.values() if each.efforts and each.name not in names]


def rounding_names() -> list[str]:
    """Return the names that `--rounding` takes."""
    return [each.name for each in ALGORITHMS.values() if each.code is not None]


def tried(effort: Effort, without: Collection[str]) -> list[Algorithm]:
    """Return the algorithms that an effort tries, without those that the user left out."""
    return [each for each in ALGORITHMS.values() if effort in each.efforts and each.name not in without]


def transforms(effort: Effort, without: Collection[str]) -> list[Algorithm]:
    """Return the tried algorithms that rewrite the float model."""
    return [each for each in tried(effort, without) if each.rewrite is not None]


def weight_techniques(without: Collection[str]) -> list[str]:
    """Return the names of all techniques of int8 weights, without those that the user left out."""
    return [
        each.name
        for each in ALGORITHMS.values()
        if (each.round is not None or each.shift is not None) and each.name not in without
    ]


def technique_sets(
    effort: Effort, without: Collection[str], *, biases: bool, plain: bool
) -> list[tuple[str, ...]]:
    """Return the sets of weight techniques to compare, the most promising first.

    Args:
        effort: an effort below `balanced` tries corrections of the bias alone.
        without: names that the user left out.
        biases: whether any layer has a bias that can take a correction.
        plain: also compare with weights rounded to nearest, without any technique.
    """
    every = [each for each in ALGORITHMS.values() if effort in each.efforts]
    rounding = [(each.name,) for each in every if each.round is not None]
    shifting = [(each.name,) for each in every if each.shift is not None]
    sets = [(*one, *other) for other in (*shifting, ()) for one in (*rounding, ())]
    if not plain:
        sets = [each for each in sets if each]
    missing = () if biases else tuple(name for (name,) in shifting)
    left_out = {*without, *missing}
    return list(dict.fromkeys(tuple(name for name in each if name not in left_out) for each in sets))


def weight_options(
    options: QuantizeOptions, saturates: bool, techniques: Iterable[str] = ()
) -> WeightOptions:
    """Return the options of weight quantization that the user's options ask for.

    Args:
        options: options of the user.
        saturates: whether integer sums saturate on a CPU of the target.
        techniques: names of techniques to apply.
    """
    guarded = saturates and Technique.NO_SATURATION not in options.without
    return with_techniques(WeightOptions(options.per_channel, guarded, bits=options.weight_bits), techniques)


def with_techniques(options: WeightOptions, names: Iterable[str]) -> WeightOptions:
    """Return weight options that apply the named techniques."""
    used = [ALGORITHMS[name] for name in names if name in ALGORITHMS]
    return replace(
        options,
        round=next((each.round for each in used if each.round is not None), None),
        needs_moments=any(each.round is not None and each.needs is Needs.SECOND_MOMENTS for each in used),
        shift=next((each.shift for each in used if each.shift is not None), None),
    )
