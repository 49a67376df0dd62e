"""Mixed precision: the nodes that cause the noise go back to float, the cheapest first, and no others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxq
from onnxq.comparison.errors import decibels
from onnxq.cost import placement
from onnxq.evaluation.evaluate import EvalOptions
from onnxq.formats.writer import Writer
from onnxq.options import Limits, QuantizeOptions
from onnxq.pipeline import quantize
from onnxq.search import accuracy_target
from onnxq.search.mixed_precision import (
    DEFAULTS,
    Fallback,
    FallbackNodes,
    FloatCost,
    Goal,
    fall_back,
    grouped,
)
from onnxq.search.references import References
from onnxq.search.task import Task
from onnxq.search.trial import Choice
from tests.conftest import CNN, SAMPLES, normal, parse

SLOW = 1.5
"""Growth of the time of a model whose products gain little in float, a share."""


def measurement(noises, interaction=1.0):
    """Return the noise of a model in which each node adds its own: one number, or one for each part of the outputs."""

    def measure(floats):
        left = [np.atleast_1d(noise) for name, noise in noises.items() if name not in floats]
        return np.maximum(np.sum(left, axis=0) * interaction, 1e-12) if left else np.full(len(parts), 1e-12)

    parts = np.atleast_1d(next(iter(noises.values())))
    return measure


def db(measure, floats=()):
    """Return the SQNR of the worst part, dB."""
    return decibels(max(measure(frozenset(floats))))


def float_costs_of(names, macs=None):
    share = 1 / len(names)
    return {
        name: FloatCost((macs or {}).get(name, share), share, (macs or {}).get(name, share)) for name in names
    }


def run(noises, *, macs=None, interaction=1.0, goal=None):
    work = FallbackNodes(float_costs_of(list(noises), macs))
    together = measurement(noises, interaction)
    return fall_back(work, measurement(noises), together, together(frozenset()), goal)


def test_only_the_node_that_causes_the_noise_goes_back():
    noises = {f"n{i}": 1e-5 for i in range(20)} | {"bad": 0.05}
    result = run(noises)
    assert result.nodes == ("bad",)
    assert result.before_db < DEFAULTS.target_db <= result.after_db


def test_of_two_equally_noisy_nodes_the_cheaper_goes_first():
    noises = {f"n{i}": 1e-6 for i in range(30)} | {"cheap": 0.008, "dear": 0.008}
    result = run(noises, macs=dict.fromkeys(noises, 0.01) | {"dear": 0.15})
    assert result.nodes == ("cheap",)


def test_noise_above_the_sum_of_its_parts_takes_more_rounds():
    noises = {f"n{i}": 0.002 * 0.7**i for i in range(25)}
    result = run(noises, interaction=4.0)
    assert result.after_db >= DEFAULTS.target_db
    assert len(result.nodes) > 1


def test_the_limits_hold_and_a_small_gain_changes_nothing():
    noises = {f"n{i}": 0.0011 for i in range(20)}
    result = run(noises, macs=dict.fromkeys(noises, SLOW / 20))
    assert result.nodes == ()
    assert result.after_db == result.before_db
    assert 10 * np.log10(1 / (1 - DEFAULTS.max_time / SLOW)) < DEFAULTS.min_gain_db


def test_the_limits_are_used_up_where_that_gains_enough():
    noises = {f"n{i}": 0.0011 for i in range(20)}
    half = run(noises)
    assert len(half.nodes) == pytest.approx(DEFAULTS.max_time * 20, abs=1)
    assert half.after_db == pytest.approx(half.before_db + 10 * np.log10(2), abs=0.5)
    assert half.after_db < DEFAULTS.target_db
    work = FallbackNodes({name: FloatCost(0.05, 0.075, 0.0) for name in noises})
    measure = measurement(noises)
    cheap = fall_back(work, measure, measure, measure(frozenset()))
    assert len(cheap.nodes) == pytest.approx(DEFAULTS.max_weights / 0.075, abs=1)
    assert cheap.after_db < DEFAULTS.target_db


@pytest.mark.parametrize("interaction", [0.25, 0.4, 3.0])
def test_nodes_that_need_not_be_float_go_back_to_int8(interaction):
    """Noise is not the sum of its parts, and later rounds add more nodes: the result must not overshoot."""
    result = run({f"n{i}": 0.08 * 0.9**i for i in range(40)}, interaction=interaction)
    assert DEFAULTS.target_db <= result.after_db <= DEFAULTS.target_db + DEFAULTS.step_db


@pytest.mark.parametrize(("each", "holds"), [(0.005, True), (0.0011, False)])
def test_an_unusable_model_has_no_limits(each, holds):
    """At 10 dB nearly all nodes go back; 16.6 dB is usable, so nothing is slowed down."""
    result = run({f"n{i}": each for i in range(20)}, macs={f"n{i}": SLOW / 20 for i in range(20)})
    assert (result.after_db >= DEFAULTS.target_db) == holds
    assert (len(result.nodes) > 0) == holds


def test_large_models_are_measured_in_groups():
    noises = {f"n{i}": 1e-6 for i in range(1000)} | {"bad": 0.05}
    asked = []
    work = FallbackNodes(float_costs_of(list(noises)))
    measure = measurement(noises)
    result = fall_back(work, lambda names: asked.append(1) or measure(names), measure, measure(frozenset()))
    assert len(asked) <= 64 + 1  # and once with everything quantized
    assert "bad" in result.nodes
    assert result.mac_share < 0.05


@pytest.mark.parametrize("interaction", [0.3, 1.0, 4.0])
def test_a_target_that_is_asked_for_takes_the_fewest_nodes(interaction):
    noises = {f"n{i}": 0.001 * 0.8**i for i in range(40)}
    result = run(noises, interaction=interaction, goal=Goal(35.0, asked=True))
    assert result.after_db >= 35.0
    measure = measurement(noises, interaction)
    assert db(measure, list(noises)[: len(result.nodes) - 1]) < 35.0
    assert result.nodes == tuple(list(noises)[: len(result.nodes)])


def test_a_metric_decides_where_there_is_one():
    noises = {f"n{i}": 0.01 * 0.7**i for i in range(20)}
    alone = measurement(noises)
    result = run(
        noises,
        goal=Goal(-np.inf, asked=True, drop=lambda names: max(0.0, 25.0 - db(alone, names)), max_drop=0.5),
    )
    assert result.after_db >= 24.5
    assert db(alone, result.nodes[:-1]) < 24.5
    assert next(step.drop for step in result.steps if step.nodes == result.nodes) <= 0.5


def test_both_have_to_hold_where_both_are_asked_for():
    noises = {f"n{i}": 0.01 * 0.7**i for i in range(20)}
    alone = measurement(noises)
    both = Goal(30.0, asked=True, drop=lambda names: max(0.0, 25.0 - db(alone, names)), max_drop=0.5)
    assert run(noises, goal=both).after_db >= 30.0


def test_a_target_out_of_reach_gives_the_closest():
    noises = {f"n{i}": 0.001 for i in range(5)}
    floor = 0.01

    def measure(names):
        return [floor + sum(noise for name, noise in noises.items() if name not in names)]

    result = fall_back(
        FallbackNodes(float_costs_of(list(noises))),
        measure,
        measure,
        measure(frozenset()),
        Goal(60.0, asked=True),
    )
    assert len(result.nodes) == 5


def test_a_single_part_with_noise_is_repaired_though_all_others_are_close():
    """One output of 120 is wrong: its node goes back, not those that add most noise to the others."""
    clean = np.full(120, 1e-5)
    noises = {f"n{i}": clean * (1 + i % 3) for i in range(20)} | {
        "bad": np.where(np.arange(120) == 37, 0.5, 0.0)
    }
    result = run(noises)
    assert result.nodes == ("bad",)
    assert result.before_db == pytest.approx(3.0, abs=0.1)
    assert result.after_db > 30


def test_the_node_with_most_excess_noise_over_all_parts_goes_first():
    noises = {
        "both": np.array([0.02, 0.02]),
        "first": np.array([0.025, 0.0]),
        "second": np.array([0.0, 0.025]),
    }
    noises |= {f"n{i}": np.array([1e-5, 1e-5]) for i in range(20)}
    assert "both" in run(noises, goal=Goal(14.0)).nodes
    assert set(run(noises).nodes) == {"both", "first", "second"}


def test_elementwise_nodes_between_products_go_back_if_they_cause_the_noise():
    """Elementwise nodes are int8 only between int8 products, so a single int8 product does not show their noise."""
    products = {f"n{i}": 1e-5 for i in range(20)}

    def measure(floats):
        integers = [name for name in products if name not in floats]
        between = len(integers) > 1 and not floats >= {"sigmoid", "mul"}
        return [1e-12 + 1e-5 * len(integers) + 0.05 * between]

    work = FallbackNodes(float_costs_of(list(products)), {("sigmoid", "mul"): FloatCost(0.0, 0.0, 0.1)})
    result = fall_back(work, measure, measure, measure(frozenset()))
    assert set(result.nodes) == {"sigmoid", "mul"}
    assert result.mac_share == 0
    assert result.after_db > 30


def test_a_model_that_cannot_run_is_repaired_by_the_node_that_prevents_it():
    noises = {f"n{i}": 1e-5 for i in range(20)}

    def measure(floats):
        return [
            sum(noise for name, noise in noises.items() if name not in floats) if "n7" in floats else np.inf
        ]

    result = fall_back(FallbackNodes(float_costs_of(list(noises))), measure, measure, measure(frozenset()))
    assert "n7" in result.nodes
    assert result.before_db == -200
    assert result.after_db > 35


def test_the_command_reaches_the_target_and_shows_what_it_costs(tmp_path):
    plain = onnxq.quantize(CNN, SAMPLES / "calib", tmp_path / "plain.onnx")
    wanted = plain.outputs.sqnr_db + 6
    report = onnxq.quantize(CNN, SAMPLES / "calib", tmp_path / "out.onnx", limits=Limits(min_sqnr=wanted))
    assert report.outputs.sqnr_db >= wanted
    assert all(gate.holds for gate in report.gates)
    assert report.kernels.model_share < 1
    assert [point.name for point in report.frontier if point.kept] != ["all int8"]
    assert report.frontier[0].name == "all int8"
    assert all(point.latency > 0 and 0 < point.size < 1 for point in report.frontier)


def test_the_metric_of_the_users_task_holds(tmp_path):
    options = QuantizeOptions(
        CNN, SAMPLES / "calib", tmp_path / "out.onnx", limits=Limits(max_drop=0.0), samples=60
    )
    report = quantize(options, Task(SAMPLES / "eval", EvalOptions(labels=SAMPLES / "eval" / "labels.csv")))
    assert report.drop.metric == "top-1"
    assert report.drop.points <= 0
    assert [gate.name for gate in report.gates] == ["--max-drop"]
    assert report.gates[0].holds


@pytest.fixture
def fragile(tmp_path, rng):
    """A chain of convolutions; the input of one has a range that is too wide for 8 bits."""
    text = """g (float[N,16,4,4] x) => (float[N,16,4,4] y, float[N,16,4,4] c) {
        a = Conv(x, w0)  b = Tanh(a)  c = Mul(b, spread)  d = Conv(c, w1)  e = Tanh(d)  f = Conv(e, w2)  h = Tanh(f)  y = Conv(h, w3) }"""
    spread = np.float32([1000, *[1] * 15]).reshape(1, 16, 1, 1)
    constants = {f"w{i}": normal(rng, 16, 16, 1, 1) / 4 for i in range(4)} | {"spread": spread}
    constants["w1"][:, 0] /= 1000  # the wide input counts no more than the others
    onnx.save(parse(text, constants), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(32):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16, 4, 4))
    return tmp_path


def test_a_model_that_8_bits_make_unusable_is_repaired(fragile):
    careless = onnxq.quantize(
        fragile / "model.onnx", fragile / "data", fragile / "fast.onnx", effort=onnxq.Effort.FAST
    )
    assert careless.outputs.sqnr_db < 15
    assert careless.fallback is None
    report = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "int8.onnx")
    assert report.outputs.sqnr_db > 25
    assert len(report.fallback.nodes) == 1
    assert any("kept float for accuracy" in group.reason for group in report.floats)


def test_models_that_are_only_measured_keep_float_weights(fragile, monkeypatch):
    """Half precision would cost time and memory; only models that may be written have it when they are measured."""
    narrowed = {}

    def listening(measure):
        def heard(references, model, *most, **where):
            stored = [value.const_value.dtype for value in model.graph.initializers.values()]
            narrowed.setdefault((measure.__name__, bool(most)), []).append(ir.DataType.FLOAT16 in stored)
            return measure(references, model, *most, **where)

        return heard

    monkeypatch.setattr(Writer, "toggles", lambda *_: None)  # single nodes are measured in their own files
    for measure in (References.measure_before_softmax, References.measure):
        monkeypatch.setattr(References, measure.__name__, listening(measure))
    report = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "int8.onnx")
    assert report.fallback.nodes
    assert narrowed["measure_before_softmax", True] == [False] * (4 + 1)  # each alone, and once everything
    # before, with one node in float, and as written; each once
    assert narrowed["measure", False] == [False, True, True]


def test_sets_that_placement_makes_the_same_are_measured_once(fragile, monkeypatch):
    measured = []
    measure = References.measure

    def listening(references, model, **where):
        measured.append(sum(node.op_type == "QuantizeLinear" for node in model.graph))
        return measure(references, model, **where)

    monkeypatch.setattr(References, "measure", listening)
    # every node between those in float would be slow
    monkeypatch.setattr(accuracy_target, "place", lambda plan, *_: placement.Placement(tuple(plan.nodes), ()))
    report = onnxq.quantize(
        fragile / "model.onnx", fragile / "data", fragile / "int8.onnx", limits=Limits(min_sqnr=60)
    )
    assert len(report.fallback.steps) >= 3
    assert measured[0] > 0
    # for the steps, and for the question whether weights in half precision reach the target
    assert measured[1:] == [0, 0]


def test_single_nodes_are_measured_in_one_session_with_the_result_of_many(fragile, monkeypatch):
    noises = {"toggled": [], "files": []}

    def listening(measure, kind):
        def heard(references, model, *most):
            found = measure(references, model, *most)
            if most:
                noises[kind].append(found.noise)
            return found

        return heard

    for name, kind in (("measure_toggled", "toggled"), ("measure_before_softmax", "files")):
        monkeypatch.setattr(References, name, listening(getattr(References, name), kind))
    report = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "int8.onnx")
    assert (len(noises["toggled"]), len(noises["files"])) == (4 + 1, 0)
    monkeypatch.setattr(Writer, "toggles", lambda *_: None)
    other = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "files.onnx")
    assert other.fallback.nodes == report.fallback.nodes
    assert len(noises["files"]) == 4 + 1
    assert np.array(noises["toggled"]) == pytest.approx(np.array(noises["files"]), rel=0.1)


def test_only_the_chosen_techniques_weights_are_kept(fragile, monkeypatch):
    def meet(inputs, candidates, choice, float_costs, task):
        assert [*candidates.cache.weights] == [choice.kept.techniques]
        assert all(len(other.cache.weights) <= 1 for other in candidates.others)
        return choice

    monkeypatch.setattr("onnxq.search.best_recipe.meet_target", meet)
    report = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "int8.onnx")
    assert len({tuple(trial.techniques) for trial in report.trials}) > 1


def test_integers_that_save_neither_time_nor_size_are_not_worth_their_noise(fragile, monkeypatch):
    model = onnx.load(fragile / "model.onnx")
    model.opset_import[0].version = 11
    onnx.save(model, fragile / "model.onnx")
    kept = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "int8.onnx")
    assert kept.kernels.model_share > 0.5
    monkeypatch.setattr(placement, "LEAST_SIZE", 0.5)  # 3 of 4 layers' weights save 0.375 of half precision
    monkeypatch.setattr(placement, "LEAST_TIME", 1.0)
    report = onnxq.quantize(fragile / "model.onnx", fragile / "data", fragile / "float.onnx")
    assert report.kernels.model_share == 0
    assert report.outputs.sqnr_db > 60
    assert report.techniques == []
    assert len(report.fallback.nodes) == 4
    assert any("save 37.5% of the size: the model stays float" in warning for warning in report.warnings)
    written = onnx.load(fragile / "float.onnx")
    assert written.opset_import[0].version == 11
    assert {node.op_type for node in written.graph.node} == {"Conv", "Tanh", "Mul", "Cast"}


def test_outputs_that_depend_on_the_last_bits_of_the_weights(tmp_path, rng):
    """The difference of two nearly equal products is too small for half precision, too."""
    text = "g (float[1,16,4,4] x) => (float[1,16,4,4] y) { a = Conv(x, w0) b = Conv(x, w1) y = Sub(a, b) }"
    weight = normal(rng, 16, 16, 1, 1)
    constants = {"w0": weight, "w1": weight * (1 + 1e-4 * normal(rng, 16, 16, 1, 1))}
    onnx.save(parse(text, constants), tmp_path / "model.onnx")
    (tmp_path / "data").mkdir()
    for i in range(32):
        np.save(tmp_path / "data" / f"{i:02}.npy", normal(rng, 1, 16, 4, 4))
    report = onnxq.quantize(tmp_path / "model.onnx", tmp_path / "data", tmp_path / "out.onnx")
    assert report.outputs.sqnr_db > 60
    assert len(report.fallback.nodes) == 2
    assert all(
        tensor.data_type != onnx.TensorProto.FLOAT16
        for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer
    )
    assert any("the model stays float; --all-int8" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("count", "nodes", "units"),
    [(200, 0, 64), (200, 900, 64), (200, 2000, 32), (200, 9000, 16), (10, 9000, 10), (0, 5, 0)],
)
def test_neighbours_are_measured_together_in_large_models(count, nodes, units):
    found = grouped(list(range(count)), nodes)
    assert len(found) == units
    assert [one for group in found for one in group] == list(range(count))
    assert all(found)


def test_nodes_that_early_rounds_chose_without_need_return_to_int8():
    """Alone, ten nodes look noisier than the one that causes the noise: they are wanted first, and not needed."""
    names = [f"n{i}" for i in range(20)]
    alone = dict.fromkeys(names[:10], 0.001) | dict.fromkeys(names[10:], 1e-06) | {"bad": 5e-4}
    costs = float_costs_of([*names, "bad"])

    def together(floats):
        return np.array(
            [1e-4 * len([name for name in names if name not in floats]) / 20 + 0.05 * ("bad" not in floats)]
        )

    result = fall_back(FallbackNodes(costs), measurement(alone), together, together(frozenset()))
    assert "bad" in result.nodes
    assert len(result.nodes) <= 2


@pytest.mark.parametrize(
    ("reached", "time", "stays"), [(18.0, 0.1, False), (18.0, 0.3, True), (21.0, 0.1, True)]
)
def test_outputs_that_miss_the_target_have_to_pay_in_time(monkeypatch, reached, time, stays):
    choice = Choice(
        recipe=SimpleNamespace(plan=None, half_precision=True),
        kept=None,
        fallback=Fallback(("a",), 10.0, reached, 0.5),
    )
    target = SimpleNamespace(
        goal=Goal(),
        settings=DEFAULTS,
        shapes={},
        costs=("a CPU",),
        all_float=lambda other: replace(other, fallback=None),
    )
    monkeypatch.setattr(accuracy_target, "savings", lambda *_: placement.Savings(time, 0.2))
    found = accuracy_target._worthwhile(target, choice)
    assert (found is choice) == stays
    assert stays or f"with outputs at {reached:.1f} dB" in found.warnings[0]
