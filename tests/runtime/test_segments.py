"""Segments run one after the other give the values of the whole model."""

import numpy as np
import pytest

from onnxq.graph.edit import nodes_of
from onnxq.normalize.passes import name_and_infer
from onnxq.runtime.inner_values import expose
from onnxq.runtime.segments import split
from onnxq.runtime.sessions import open_session
from tests.conftest import normal, parse, to_ir

SKIPS = """g (float[1,4,8,8] x, float[1] z) => (float[1,4,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w) d = Add(c, x) e = Relu(d)
    shape = Shape(x) f = Reshape(e, shape) h = Concat<axis=1>(f, b)
    i = Conv<pads=[1,1,1,1]>(h, v) y = Add(i, z) }"""
BODIES = """g (float[2,4] x, bool c) => (float[2,4] y) {
    a = Sigmoid(x) b = Relu(a)
    d = If(c) <then_branch = t () => (float[2,4] p) { q = Mul(a, b) p = Add(q, x) },
              else_branch = e () => (float[2,4] r) { r = Neg(a) }>
    f = Tanh(d) y = Add(f, a) }"""
VALUE = 4 * 4 * 64
"""Bytes of a value of `SKIPS` with four channels."""


def run_segments(segments, feeds):
    values = dict(feeds)
    for segment in segments:
        session = open_session(segment.model, threads=1)
        taken = {name: values[name] for name in segment.inputs}
        values |= zip(segment.outputs, session.run(list(segment.outputs), taken), strict=True)
    return values


@pytest.mark.parametrize("most", [1, VALUE, 2 * VALUE, 5 * VALUE, 10**9])
def test_segments_give_all_wanted_values(rng, most):
    constants = {"w": normal(rng, 4, 4, 3, 3), "v": normal(rng, 4, 8, 3, 3)}
    model = to_ir(parse(SKIPS, constants))
    name_and_infer(model)
    wanted = {"a": VALUE, "b": VALUE, "d": VALUE, "e": VALUE, "h": 2 * VALUE, "y": VALUE}
    exposed = expose(model, list(wanted))
    feeds = {"x": normal(rng, 1, 4, 8, 8), "z": normal(rng, 1)}
    segments = split(exposed.model, wanted, most)
    found = run_segments(segments, feeds)
    for name, array in zip(wanted, open_session(exposed.model).run(list(wanted), feeds), strict=True):
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
    names = [node.name for segment in segments for node in nodes_of(segment.model)]
    assert names == [node.name for node in nodes_of(model)]
    for segment in segments:
        given = [wanted[name] for name in segment.outputs if name in wanted]
        assert len(given) <= 1 or sum(given) <= most
    assert (len(segments) == 1) == (most >= 7 * VALUE)
    weights = [name for segment in segments for name in segment.model.graph.initializers]
    assert set(weights) == {"w", "v"}


def test_weights_of_other_segments_stay_out(rng):
    model = to_ir(parse(SKIPS, {"w": normal(rng, 4, 4, 3, 3), "v": normal(rng, 4, 8, 3, 3)}))
    name_and_infer(model)
    wanted = {"e": VALUE, "i": VALUE}
    first, second = split(expose(model, list(wanted)).model, wanted, VALUE)
    assert (set(first.model.graph.initializers), set(second.model.graph.initializers)) == ({"w"}, {"v"})
    assert (first.inputs, second.inputs) == (("x",), ("z", "h"))


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_take_values_of_earlier_segments(rng, condition):
    model = to_ir(parse(BODIES))
    name_and_infer(model)
    wanted = dict.fromkeys(["a", "b", "d", "f", "y"], 32)
    feeds = {"x": normal(rng, 2, 4), "c": np.array(condition)}
    exposed = expose(model, list(wanted))
    segments = split(exposed.model, wanted, 32)
    assert len(segments) == 5
    found = run_segments(segments, feeds)
    for name, array in zip(wanted, open_session(exposed.model).run(list(wanted), feeds), strict=True):
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_a_cut_is_where_the_fewest_other_values_cross_it(rng):
    """The cut behind `e` passes one other value on, the one behind `d` would pass two on."""
    text = """g (float[4] x) => (float[4] y) {
        a = Relu(x) b = Neg(a) c = Exp(a) d = Add(b, c) e = Sin(d) f = Cos(e) h = Mul(f, e) y = Relu(h) }"""
    model = to_ir(parse(text))
    name_and_infer(model)
    wanted = {"a": 16, "d": 16, "e": 16, "y": 16}
    segments = split(expose(model, list(wanted)).model, wanted, 48)
    assert [segment.inputs for segment in segments] == [("x",), ("e",)]
