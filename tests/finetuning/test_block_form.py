"""Training of weights in blocks: the form computes what the file computes, and its values fit into the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import OnnxqError
from onnxq.finetuning.block_form import block_form, with_blocks
from onnxq.finetuning.trained import Bias
from onnxq.finetuning.trained_weights import CELL, BlockGrowth, BlockWeight
from onnxq.formats.matmul_nbits import coded_product
from onnxq.modes.weight_only import quantize_weights_only
from onnxq.options import FinetuneOptions, Mode, QuantizeOptions, WeightType
from onnxq.pipeline import finetune
from onnxq.runtime.sessions import open_fake_quantized, open_session
from onnxq.search.inputs import Inputs, prepare
from onnxq.search.trial import Outcome
from onnxq.techniques.blockwise import Coded

from ..conftest import SAMPLES, TRANSFORMER


def options(output: Path | None = None, **more: object) -> QuantizeOptions:
    chosen = {"samples": 60, "mode": Mode.WEIGHTS, "keep_int8": True} | more
    return QuantizeOptions(TRANSFORMER, SAMPLES / "calib", output, **chosen)  # type: ignore[arg-type]


def codes(outcome: Outcome) -> dict[str, Coded]:
    found = {node.name or "": coded_product(node) for node in outcome.written.graph}
    return {name: coded for name, coded in found.items() if coded is not None}


@pytest.fixture(scope="module", params=[True, False], ids=["symmetric", "affine"])
def outcome(request: pytest.FixtureRequest) -> tuple[Inputs, Outcome]:
    inputs = prepare(options(symmetric=request.param, integer_compute=False))
    return inputs, quantize_weights_only(inputs)


def test_the_form_computes_what_the_file_computes(outcome) -> None:
    inputs, result = outcome
    form = block_form(result.choice.recipe, result.written)
    assert {type(each) for each in form.trained.values()} == {BlockWeight, BlockGrowth, Bias}
    assert len(form.weights) == len(codes(result)) > 4
    feeds = inputs.samples.validation[0].load()
    found = open_fake_quantized(form.model).run(None, feeds | form.fed(form.start()))
    expected = open_session(result.written).run(None, feeds)
    float_ = open_session(inputs.model).run(None, feeds)
    for one, other, exact in zip(found, expected, float_, strict=True):
        assert np.abs(one - other).max() < 0.05 * np.abs(other - exact).max()


def test_values_at_the_start_give_the_codes_of_the_file(outcome) -> None:
    _, result = outcome
    form = block_form(result.choice.recipe, result.written)
    before, after = codes(result), codes(with_blocks(result, form, form.start()))
    assert before.keys() == after.keys()
    for name, one in before.items():
        np.testing.assert_array_equal(one.codes, after[name].codes)
        np.testing.assert_array_equal(one.scales, after[name].scales)
        np.testing.assert_array_equal(one.zeros, after[name].zeros)
    for name in form.weights:
        each = form.trained[name]
        assert np.abs(each.start - each.integers(each.start)).max() <= CELL + 1e-4


def test_any_trained_value_gives_what_the_graph_computed_with(outcome) -> None:
    _, result = outcome
    form = block_form(result.choice.recipe, result.written)
    rng = np.random.default_rng(0)
    wild = {
        name: each.clipped(np.asarray(each.start + rng.normal(0, 3, each.start.shape), np.float32))
        for name, each in form.trained.items()
    }
    stored, fed = codes(with_blocks(result, form, wild)), form.fed(wild)
    moved = 0
    for name in form.weights:
        each = form.trained[name]
        assert isinstance(each, BlockWeight)
        rows = stored[each.node].decoded()
        moved += int((stored[each.node].codes != each.coded.codes).sum())
        np.testing.assert_allclose(rows if each.axis == 0 else rows.T, fed[name], rtol=1e-5, atol=1e-7)
    assert moved > 1000


@pytest.mark.parametrize("axis", [0, 1])
def test_the_gradient_of_a_block_is_that_of_its_weights(axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = (3, 70) if axis == 0 else (70, 3)
    growth = BlockGrowth("w", np.zeros((3, 3), np.float32), axis, 32, shape)
    weight, target = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    value, step = rng.normal(0, 0.2, (3, 3)).astype(np.float32), 1e-3
    found = growth.gradient(weight * growth.factor(value) * target)
    for index in np.ndindex(3, 3):
        moved = np.zeros((3, 3), np.float32)
        moved[index] = step
        high, low = ((weight * growth.factor(value + sign * moved) * target).sum() for sign in (1, -1))
        np.testing.assert_allclose(found[index], (high - low) / (2 * step), rtol=0.02, atol=0.02)


def test_the_file_comes_closer_to_float_and_the_seed_gives_its_bytes(tmp_path: Path) -> None:
    tuning = FinetuneOptions(steps=40)
    reports = [finetune(options(tmp_path / f"{i}.onnx", samples=200), tuning) for i in range(2)]
    found = reports[0].finetuning
    assert found is not None
    assert found.kept, found
    assert found.bits == (4,)
    assert found.weights > 4
    assert found.after_db > found.before_db + 0.5
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()


def test_a_file_that_is_quantized_already_is_refused(outcome, tmp_path: Path) -> None:
    _, result = outcome
    ir.save(result.written, tmp_path / "int4.onnx")
    again = replace(options(tmp_path / "out.onnx"), model=tmp_path / "int4.onnx")
    with pytest.raises(OnnxqError, match=r"nothing to quantize: it is quantized already \(\d+ integer nodes"):
        finetune(again, FinetuneOptions())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"weight_type": WeightType.NF4}, "--weight-type nf4: finetuning trains int4 and int8"),
        ({"standard": True}, "--standard: finetuning trains MatMulNBits"),
        ({"rounding": "awq"}, "--rounding awq: finetuning trains MatMulNBits"),
    ],
)
def test_other_forms_of_weights_are_refused(tmp_path: Path, more, message: str) -> None:
    with pytest.raises(OnnxqError, match=message):
        finetune(replace(options(tmp_path / "out.onnx"), **more), FinetuneOptions())
    assert not list(tmp_path.iterdir())
