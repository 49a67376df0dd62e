"""Where outputs are judged: in front of a final Softmax, and of whatever selects by computed values."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.comparison.observation import Comparison, Observed, observe, run_all
from onnxq.comparison.taps import Selection, Tap, find_selections, find_taps
from onnxq.normalize.passes import normalize
from onnxq.types import Array
from tests.conftest import normal, parse, to_ir

WEIGHTS = {"w0": (16, 24), "w1": (16, 6), "w2": (16, 6)}
BOXES = (
    "boxes = MatMul(x, w0) b = Reshape(boxes, six_four) scores = MatMul(x, w1) s = Reshape(scores, one_six)"
)
NMS = "n = NonMaxSuppression(b, s, three, half, half)"


def floats(text: str, rng: np.random.Generator) -> ir.Model:
    constants: dict[str, Array] = {name: normal(rng, *shape) for name, shape in WEIGHTS.items()}
    constants |= {
        "six_four": np.array([1, 6, 4]),
        "one_six": np.array([1, 1, 6]),
        "three": np.array([3]),
        "half": np.float32([0.5]),
    }
    constants |= {"two": np.array([2]), "flat": np.array([-1]), "zero": np.float32(0.1), "one": np.array([1])}
    return normalize(to_ir(parse(text, constants)))


def judged(model: ir.Model) -> list[tuple[int, str, bool]]:
    """Output, name of the value that is judged, and whether in place of the output."""
    return [
        (
            tap.output,
            tap.outer(model).name or "" if tap.selected else tap.inner(model).name or "",
            tap.selected,
        )
        for tap in find_taps(model)
    ]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("(float[1,6] y) { a = MatMul(x, w1) y = Softmax(a) }", -1),
        ("(float[1,6] y) { a = MatMul(x, w1) y = LogSoftmax<axis=1>(a) }", 1),
        (
            "(float[P] y) { m = MatMul(x, w0) a = Reshape(m, six_four) p = Softmax<axis=2>(a)"
            " t = Transpose(p) y = Reshape(t, flat) }",
            2,
        ),
    ],
)
def test_a_softmax_is_judged_on_both_sides(rng, text, axis):
    model = floats(f"g (float[1,16] x) => {text}", rng)
    (tap,) = find_taps(model)
    assert tap.inner(model).name == "a"
    assert tap.outer(model) is model.graph.outputs[0]
    assert not tap.selected
    assert tap.axis == axis
    observation = observe(model, [{"x": normal(rng, 1, 16)} for _ in range(4)])
    assert observation.has_final_softmax
    assert not observation.plain
    assert [part.name for part in observation.inner] == [part.name for part in observation.outer] == ["y"]


def test_a_softmax_with_a_product_behind_it_is_not_final(rng):
    model = floats("g (float[1,16] x) => (float[1,24] y) { p = Softmax(x) y = MatMul(p, w0) }", rng)
    assert judged(model) == [(0, "y", False)]
    assert observe(model, [{"x": normal(rng, 1, 16)}]).plain


def test_scores_and_boxes_in_front_of_top_k_and_gather_are_judged(rng):
    """Values, indices, and the boxes that they choose: three outputs, two values to judge."""
    text = f"""g (float[1,16] x) => (float[1,2] best, int64[1,2] which, float[P,Q,R,S] chosen) {{ {BOXES}
        best, which = TopK(scores, two) chosen = Gather<axis=1>(b, which) }}"""
    model = floats(text, rng)
    assert judged(model) == [(0, "scores", True), (2, "b", True)]
    assert find_selections(model) == [Selection(model.graph[-2].name or "", 1, -1)]


def test_scores_and_boxes_in_front_of_non_maximum_suppression_are_judged(rng):
    text = f"""g (float[1,16] x) => (int64[K,3] n, float[P,Q,R,S] chosen) {{ {BOXES} {NMS}
        i = Gather<axis=1>(n, two) chosen = Gather<axis=1>(b, i) }}"""
    model = floats(text, rng)
    assert judged(model) == [(0, "b", True), (0, "s", True)]
    assert [(each.slot, each.rows) for each in find_selections(model)] == [(0, True)]


def test_the_scores_in_front_of_an_arg_max_decide(rng):
    model = floats(
        "g (float[1,16] x) => (int64[1] y) {"
        " a = MatMul(x, w0) r = Reshape(a, six_four) y = ArgMax<axis=2>(r) }",
        rng,
    )
    (tap,) = find_taps(model)
    assert (tap.inner(model).name, tap.selected, tap.axis) == ("r", True, 2)


def test_an_arg_max_beside_the_scores_it_reads_lets_them_decide(rng):
    model = floats(
        "g (float[1,16] x) => (float[1,6] a, int64[1,1] y) { a = MatMul(x, w1) y = ArgMax<axis=1>(a) }", rng
    )
    assert judged(model) == [(0, "a", False)]
    assert [tap.axis for tap in find_taps(model)] == [1]


def test_values_chosen_by_a_threshold_are_judged_in_front_of_it(rng):
    text = """g (float[1,16] x) => (int64[2,K] at, float[K] chosen) {
        a = MatMul(x, w1) g = Greater(a, zero) at = NonZero(g) t = Transpose(at) chosen = GatherND(a, t) }"""
    model = floats(text, rng)
    assert judged(model) == [(0, "a", True)]


def test_a_choice_by_inputs_alone_is_none(rng):
    """Values that depend on no product do not change with quantization."""
    text = """g (float[1,16] x) => (float[1,6] y) {
        v, i = TopK(x, two) a = MatMul(x, w1) m = ReduceSum(v, one) y = Add(a, m) }"""
    model = floats(text, rng)
    assert judged(model) == [(0, "y", False)]
    assert find_selections(model) == []


def test_a_choice_in_the_middle_leaves_the_outputs_to_be_judged(rng):
    """A choice of experts or tokens in front of products keeps the number of values: they can be compared."""
    text = """g (float[1,16] x) => (float[P,6] y) {
        a = MatMul(x, w0) v, i = TopK(a, two) e = Gather<axis=1>(a, i)
        r = ReduceMean<axes=[2], keepdims=1>(e) q = Reshape(r, flat)
        s = Softmax<axis=0>(q) u = ReduceSum(s) z = Mul(x, u) y = MatMul(z, w1) }"""
    model = floats(text, rng)
    assert judged(model) == [(0, "y", False)]
    assert [each.axis for each in find_selections(model)] == [-1]


def test_a_choice_of_any_number_in_the_middle_does_not(rng):
    """How many there are hangs on the choice: nothing behind it can be compared row by row."""
    text = """g (float[1,16] x) => (float[K,24] y) {
        rows = Constant<value_ints=[-1, 1]>() a = MatMul(x, w1) g = Greater(a, zero) at = NonZero(g)
        t = Transpose(at)
        c = GatherND(a, t) q = Reshape(c, rows) m = Mul(q, x) y = MatMul(m, w0) }"""
    assert judged(floats(text, rng)) == [(0, "a", True)]


LOOP = """y = Loop(many, go%s) <body = body (int64 i, bool go_in%s) => (bool go_out%s, int64[K,3] o) {
    go_out = Identity(go_in)%s o = NonMaxSuppression(%s, %s, three, half, half) }>"""


def test_boxes_that_go_into_a_loop_that_suppresses_are_judged(rng):
    inputs, outputs = "float[1,6,4] bi, float[1,1,6] si", "float[1,6,4] bo, float[1,1,6] so"
    carried = LOOP % (", b, s", f", {inputs}", f", {outputs}", " bo = Neg(bi) so = Neg(si)", "bi", "si")
    text = f"""g (float[1,16] x, int64 many, bool go) => (int64[N,K,3] y) {{
        {BOXES} {carried.replace("y = Loop", "bl, sl, y = Loop")} }}"""
    assert judged(floats(text, rng)) == [(0, "b", True), (0, "s", True)]


def test_boxes_that_the_body_of_a_loop_reads_are_judged(rng):
    text = f"""g (float[1,16] x, int64 many, bool go) => (int64[N,K,3] y) {{
        {BOXES} {LOOP % ("", "", "", "", "b", "s")} }}"""
    assert judged(floats(text, rng)) == [(0, "b", True), (0, "s", True)]


def test_boxes_that_a_branch_reads_are_judged(rng):
    branches = ", ".join(
        f"{name}_branch = {name} () => (int64[K,3] o{name}) {{"
        f" o{name} = NonMaxSuppression(b, s, {most}, half, half) }}"
        for name, most in (("then", "three"), ("else", "two"))
    )
    text = f"g (float[1,16] x, bool go) => (int64[K,3] y) {{ {BOXES} y = If(go) <{branches}> }}"
    assert judged(floats(text, rng)) == [(0, "b", True), (0, "s", True)]


def test_the_same_value_in_front_of_several_outputs_is_judged_once(rng):
    text = """g (float[1,16] x) => (int64[1,1] y, int64[1,1] z) {
        a = MatMul(x, w1) y = ArgMax<axis=1>(a) z = ArgMin<axis=1>(a) }"""
    assert judged(floats(text, rng)) == [(0, "a", True)]


def test_a_form_without_the_node_is_judged_at_its_output(rng):
    model = floats("g (float[1,16] x) => (float[1,6] y) { a = MatMul(x, w1) y = Softmax(a) }", rng)
    tap = Tap(0, "y", "no such node")
    assert tap.inner(model) is tap.outer(model) is model.graph.outputs[0]


def test_indices_along_an_axis_are_the_same_in_any_order():
    selection = Selection("topk", 1, -1)
    wanted = np.array([[3, 1, 2], [5, 6, 7]])
    assert selection.same(wanted, wanted[:, ::-1]) == (12.0, 12.0)
    assert selection.same(wanted, np.array([[3, 1, 9], [7, 6, 5]])) == (10.0, 12.0)
    assert Selection("topk", 1, 0).same(wanted.T, wanted[:, ::-1].T) == (12.0, 12.0)


def test_rows_are_the_same_as_sets():
    selection = Selection("nms", 0, None, rows=True)
    wanted = np.array([[0, 0, 3], [0, 0, 1], [0, 1, 3]])
    assert selection.same(wanted, wanted[::-1]) == (6.0, 6.0)
    assert selection.same(wanted, wanted[:1]) == (2.0, 4.0)
    assert selection.same(wanted, wanted[:0]) == (0.0, 3.0)
    assert selection.same(wanted[:0], wanted[:0]) == (0.0, 0.0)


def test_entries_are_the_same_each_in_its_place():
    selection = Selection("argmax", 0, None)
    assert selection.same(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [4, 3]])) == (4.0, 8.0)
    assert selection.same(np.array([1, 2, 3]), np.array([1, 2])) == (0.0, 5.0)


def test_how_often_the_same_is_selected_is_counted(rng):
    """Of two models that differ in one weight's column, sample by sample."""
    text = """g (float[1,16] x) => (float[1,2] v, int64[1,2] i, int64[1,1] y) {
        a = MatMul(x, w) v, i = TopK(a, two) y = ArgMax<axis=1>(a) }"""
    weight = normal(rng, 16, 6)
    one, other = (
        normalize(to_ir(parse(text, {"w": each, "two": np.array([2])})))
        for each in (weight, weight * np.float32([3, 1, 1, 1, 1, 1]))
    )
    samples = [(f"{i}", {"x": normal(rng, 1, 16)}) for i in range(40)]
    observation = observe(one, [feeds for _, feeds in samples])
    found: list[list[Observed]] = []
    for model in (one, other):
        opened = observation.opened(model)
        assert opened.own == 3
        found.append([each for _, each in run_all(observation.session(opened), opened, samples, observation)])
    comparison = Comparison(observation)
    for (name, _), wanted, got in zip(samples, *found, strict=True):
        comparison.add(name, wanted, got)
    products = [
        np.concatenate([feeds["x"] @ w for _, feeds in samples])
        for w in (weight, weight * np.float32([3, 1, 1, 1, 1, 1]))
    ]
    best = [np.argsort(-product, axis=1)[:, :2] for product in products]
    alike = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(*best, strict=True)])
    decided = np.mean(best[0][:, 0] == best[1][:, 0])
    assert 0.3 < alike < 1
    assert list(comparison.selected_alike().values()) == pytest.approx([alike, decided])
    (decisions,) = comparison.decisions.values()
    assert decisions.changed == round((1 - decided) * 40)
    noise = float(np.square(products[0] - products[1]).sum() / np.square(products[0]).sum())
    assert comparison.outer.ratios() == pytest.approx([noise], rel=1e-4)
