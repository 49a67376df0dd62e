import pytest

from onnxq.plan.unseen import everything, joined_ranges, probes, ranges, reached
from tests.conftest import parse, to_ir


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[2,4] x, float[2,4] k) => (float[2,4] y) { a=Add(x,k) y=Relu(a) }", {"k", "a", "y"}),
        ("g (float[2,4] x, float[2,4] k) => (float[2,4] y) { a=Add(x,k) p=Softmax(a) y=Relu(p) }", {"k", "a"}),
        ("g (float[2,4] x, float[2,4] k) => (float[4,4] y) { a=Concat<axis=0>(x,k) y=Relu(a) }", {"k"}),
        ("g (float[2,4] x, float[2,4] k) => (float[4,4] y) { a=Concat<axis=0>(k,k) y=Relu(a) }", {"k", "a", "y"}),
        (
            "g (float[2,4] x, float[2,4] k) => (float[2,4] y)"
            " { m=ReduceMean(k) d=Sub(k,m) v=Mul(d,d) s=ReduceMean(v) q=Sqrt(s) n=Div(d,q) y=Relu(n) }",
            {"k", "m", "d", "v", "s", "q"},
        ),
        ("g (float[2,4] x, float[2,4] k) => (int64[2] y) { s=Shape(k) y=Add(s,s) }", {"k"}),
        (
            "g (float[2,4] x, float[2,4] k, bool c) => (float[2,4] y) { y=If(c)"
            "<then_branch=t () => (float[2,4] p) { p=Relu(k) }, else_branch=e () => (float[2,4] q) { q=Relu(x) }> }",
            {"k", "p", "y"},
        ),
        (
            "g (float[2,4] x, float[2,4] k, int64 n, bool c) => (float[2,4] y) { y=Loop(n,c,x)"
            "<body=b (int64 i, bool ci, float[2,4] s) => (bool co, float[2,4] t) { co=Identity(ci) t=Add(s,k) }> }",
            {"k", "s", "t", "y"},
        ),
    ],
)  # fmt: skip
def test_a_new_range_passes(text, expected):
    model = to_ir(parse(text))
    (unseen,) = [value for value in model.graph.inputs if value.name == "k"]
    assert {value.name for value in reached(model, [unseen], ranges)} == expected


def test_other_influence_passes_further():
    text = "g (float[2,4] x, float[2,4] k) => (float[4,4] y) { a=Concat<axis=0>(x,k) p=Softmax(a) y=Relu(p) }"
    model = to_ir(parse(text))
    unseen = model.graph.inputs[1]
    assert {value.name for value in reached(model, [unseen], joined_ranges)} == {"k", "a"}
    assert {value.name for value in reached(model, [unseen], everything)} == {"k", "a", "p", "y"}


def test_probes_tell_which_parts_run():
    text = """g (float[2,4] x, int64 n, bool c) => (float[2,4] y) {
        z = If(c)<then_branch=t () => (float[2,4] p) { p=Relu(x) }, else_branch=e () => (float[2,4] q) { q=Tanh(x) }>
        y = Loop(n,c,z)<body=b (int64 i, bool ci, float[2,4] s) => (bool co, float[2,4] t) { co=Identity(ci) t=Relu(s) }> }"""
    assert [value.name for value in probes(to_ir(parse(text)))] == ["x", "n", "c", "i"]
