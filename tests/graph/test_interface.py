"""Inputs, outputs and defaults are the same in every written file, or nothing is written."""

import pytest

from onnxq.graph.files import save
from onnxq.graph.interface import Interface
from onnxq.normalize.passes import normalize
from tests.conftest import normal, parse, to_ir

TEXT = "g (float[N,4] x, float[4] b) => (float[N,4] y, int64[N] i) { h = MatMul(x, w) y = Add(h, b) i = ArgMax<axis=1, keepdims=0>(y) }"


def model(rng, ir_version=8):
    return to_ir(parse(TEXT, {"w": normal(rng, 4, 4), "b": normal(rng, 4)}, ir_version=ir_version))


def test_a_normalized_model_has_the_same_interface(rng):
    interface = Interface.of(model(rng))
    assert interface.overridable == {"b"}
    assert interface.difference(normalize(model(rng))) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda g: setattr(g.inputs[0], "name", "x_orig"),
            r"its inputs x FLOAT\[N,4\], b FLOAT\[4\] became x_orig",
        ),
        (lambda g: setattr(g.outputs[0], "name", "z"), r"its outputs y FLOAT\[N,4\], i INT64\[N\] became z"),
        (lambda g: g.outputs.reverse(), "its outputs y"),
        (lambda g: g.inputs.pop(), "its inputs x"),
        (lambda g: setattr(g.inputs[1], "const_value", None), "the inputs with a default differ: b"),
        (lambda g: setattr(g.outputs[0], "shape", None), "its outputs y"),
    ],
)
def test_another_interface_is_not_written(rng, tmp_path, change, says):
    interface, changed = Interface.of(model(rng)), model(rng)
    change(changed.graph)
    with pytest.raises(RuntimeError, match=says):
        save(changed, tmp_path / "m.onnx", interface)
    assert not list(tmp_path.iterdir())


def test_a_known_size_may_replace_an_unknown_one(rng):
    interface, changed = Interface.of(model(rng)), model(rng)
    changed.graph.outputs[0].shape = type(changed.graph.outputs[0].shape)([7, 4])
    assert interface.difference(changed) == ""


def test_before_version_4_of_the_format_initializers_among_the_inputs_are_constants(rng):
    interface = Interface.of(model(rng, ir_version=3))
    assert [port.name for port in interface.inputs] == ["x"]
    assert not interface.overridable


def test_a_list_of_sizes_and_names_describes_a_port(rng):
    port = Interface.of(model(rng)).inputs[0]
    assert port.sizes == ("N", 4)
    assert port.describe() == "x FLOAT[N,4]"
