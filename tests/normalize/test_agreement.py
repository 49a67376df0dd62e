"""A form that computes something else than the file is not used, whatever the pass that made it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.errors import ModelError
from onnxq.graph.files import load
from onnxq.normalize import agreement
from onnxq.normalize.agreement import difference, faithful_form, make_probe, random_probe
from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import model_inputs
from tests.conftest import normal, parse, to_ir

TEXT = "g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) i = Identity(h) y = Relu(i) }"


@pytest.fixture
def path(rng, tmp_path):
    onnx.save(parse(TEXT, {"w": normal(rng, 4, 4)}), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def scaled(model, factor):
    """Return the model with another weight."""
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name="w")
    return model


def test_the_normalized_model_is_kept_where_it_agrees(rng, path):
    probe, model = make_probe(path, "s", {"x": normal(rng, 3, 4)}), normalize(load(path))
    assert faithful_form(path, model, probe) is model


def test_a_form_with_fewer_rewrites_replaces_one_that_differs(rng, path):
    probe = make_probe(path, "s", {"x": normal(rng, 3, 4)})
    wrong = scaled(normalize(load(path)), 1.1)
    found = faithful_form(path, wrong, probe)
    assert difference(path, wrong, probe).startswith("output 'y' differs by 10.0%")
    assert found is not wrong
    assert difference(path, found, probe) == ""


def test_without_such_a_form_the_model_is_refused_in_one_line(rng, path, monkeypatch):
    probe = make_probe(path, "s", {"x": normal(rng, 3, 4)})
    wrong = scaled(normalize(load(path)), 2)
    for make in ("normalize", "name_and_infer"):
        monkeypatch.setattr(agreement, make, lambda *_, **__: wrong)
    with pytest.raises(ModelError, match=r"computes something else: output 'y' differs by 100\.0%") as raised:
        faithful_form(path, wrong, probe)
    assert "\n" not in str(raised.value)


def test_rounding_is_no_difference(rng, path):
    probe = make_probe(path, "s", {"x": normal(rng, 3, 4)})
    assert difference(path, scaled(normalize(load(path)), 1 + 1e-5), probe) == ""


def test_an_output_that_rounding_moves_may_move(rng, tmp_path):
    """The sine of a large number hangs on its last bits."""
    text = "g (float[1,8] x) => (float[1,8] y) { h = MatMul(x, w) b = Mul(h, k) y = Sin(b) }"
    onnx.save(parse(text, {"w": normal(rng, 8, 8), "k": np.float32(1e6)}), tmp_path / "m.onnx")
    probe = make_probe(tmp_path / "m.onnx", "s", {"x": normal(rng, 1, 8)})
    close = scaled(load(tmp_path / "m.onnx"), 1 + 1e-7)
    assert difference(tmp_path / "m.onnx", close, probe) == ""


def test_half_precision_differs_by_its_own_rounding(rng, tmp_path):
    text = "g (float16[3,64] x) => (float16[3,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    weights = {"w": normal(rng, 64, 64), "v": normal(rng, 64, 8)}
    onnx.save(parse(text, {k: v.astype(np.float16) for k, v in weights.items()}), tmp_path / "m.onnx")
    probe = make_probe(tmp_path / "m.onnx", "s", {"x": normal(rng, 3, 64).astype(np.float16)})
    assert difference(tmp_path / "m.onnx", normalize(load(tmp_path / "m.onnx")), probe) == ""


def test_random_numbers_are_the_same_in_both(rng, tmp_path):
    text = "g (float[2,4] x) => (float[2,4] y) { n = RandomNormalLike(x) i = Identity(n) s = Add(x, i) y = MatMul(s, w) }"
    onnx.save(parse(text, {"w": normal(rng, 4, 4)}), tmp_path / "m.onnx")
    probe = make_probe(tmp_path / "m.onnx", "s", {"x": normal(rng, 2, 4)})
    assert difference(tmp_path / "m.onnx", normalize(load(tmp_path / "m.onnx")), probe) == ""


@pytest.mark.parametrize(
    ("graph", "runs"),
    [
        ("(float[N,C,H,W] x) => (float y) { y = MaxPool<kernel_shape=[40,40]>(x) }", True),
        ("(int64[N,L] ids, bool c, string[L] s) => (float e, string[L] t) { e = Gather(k, ids) t = Identity(s) }", True),
        ("(float[N,C] x) => (float y) { y = Reshape(x, p) }", False),
    ],
)  # fmt: skip
def test_without_samples_random_inputs_are_tried(tmp_path, graph, runs):
    constants = {"k": np.ones((2, 3), np.float32), "p": np.int64([11, 13])}
    used = {name: array for name, array in constants.items() if f"({name}," in graph or f", {name})" in graph}
    model = parse(f"g {graph}", used)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    probe = random_probe(tmp_path / "m.onnx", model_inputs(to_ir(model)))
    assert (probe is not None) == runs
    if probe is not None:
        assert difference(tmp_path / "m.onnx", load(tmp_path / "m.onnx"), probe) == ""


def test_other_shapes_and_values_that_are_no_numbers_differ(rng, tmp_path):
    for name, op in (("a", "Sqrt"), ("b", "Abs"), ("c", "ReduceSum")):
        onnx.save(parse(f"g (float[N,4] x) => (float[K,L] y) {{ y = {op}(x) }}"), tmp_path / f"{name}.onnx")
    root, absolute, total = (tmp_path / f"{name}.onnx" for name in "abc")
    probe = make_probe(root, "s", {"x": normal(rng, 3, 4)})
    assert difference(root, load(root), probe) == ""
    assert "differs" in difference(root, load(absolute), probe)
    assert difference(root, load(total), probe) == "output 'y' has another shape"
