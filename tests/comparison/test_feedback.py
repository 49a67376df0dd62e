"""States of a model: found by name and shape, or in the data, and handed on along sequences."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from onnxq.comparison.feedback import (
    FURTHER_MACS,
    Feedback,
    affordable,
    chosen_sequences,
    evenly,
    find_feedback,
    find_states,
    sequences,
)
from onnxq.comparison.observation import observe, run_all
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.normalize.passes import normalize
from onnxq.runtime.sessions import open_session
from onnxq.types import Feeds
from tests.conftest import normal, parse, to_ir

STEP = """g (float[1,4] x, float[1,8] {a}) => (float[1,3] y, float[1,8] {b}) {{
    u = MatMul(x, w) r = MatMul({a}, k) s = Add(u, r) {b} = Tanh(s) y = MatMul({b}, v) }}"""


class Named:
    """A session's inputs and outputs, each (name, shape) or (name, shape, type)."""

    def __init__(self, inputs, outputs):
        self._inputs, self._outputs = ([self._value(*each) for each in given] for given in (inputs, outputs))

    @staticmethod
    def _value(name, shape, kind="tensor(float)"):
        return SimpleNamespace(name=name, shape=shape, type=kind)

    def get_inputs(self):
        return self._inputs

    def get_outputs(self):
        return self._outputs


def states(inputs, outputs, told=(), shape=(1, 8)):
    """Pairs of names that are found where all values have one shape."""
    found = find_states(
        Named(
            [("x", [1, 4]), *((name, shape) for name in inputs)],
            [("y", [1, 3]), *((name, shape) for name in outputs)],
        ),
        told,
    )
    return {name: ["y", *outputs][index] for name, index in found.items()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.11.decoder.value", "present.11.decoder.value"),
        ("past.3", "present.3"),
        ("state", "stateN"),
        ("state_in", "state_out"),
        ("h0", "hn"),
        ("c0", "cn"),
        ("h_0", "h_n"),
        ("prev_h", "new_h"),
        ("hidden_in", "hidden_out"),
        ("cache_conv_2", "new_cache_conv_2"),
        ("inputCell", "outputCell"),
        ("mem.0", "next_mem.0"),
        ("buf_in", "buf_out"),
    ],
)
def test_words_for_before_and_after_make_a_pair(before, after):
    assert states([before], [after]) == {before: after}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("left_in", "left_out"),
        ("past_key_values.0.key", "present.0.value"),
        ("past_key_values.1.key", "present.10.key"),
        ("h0", "cn"),
        ("encoder_hidden_states", "last_hidden_state"),
        ("image", "image_out"),
        ("mask", "mask_out"),
    ],
)
def test_other_names_make_none(before, after):
    assert states([before], [after]) == {}


def test_each_layer_and_kind_finds_its_own():
    names = [f"{layer}.{kind}" for layer in range(12) for kind in ("key", "value")]
    found = states([f"past_key_values.{name}" for name in names], [f"present.{name}" for name in names])
    assert found == {f"past_key_values.{name}": f"present.{name}" for name in names}
    assert states(["h0", "c0"], ["hn", "cn"]) == {"h0": "hn", "c0": "cn"}


def test_what_fits_two_outputs_fits_none():
    assert states(["state"], ["state_out", "new_state"]) == {}


@pytest.mark.parametrize(
    ("given", "left", "fits"),
    [
        ([1, 8], [1, 8], True),
        (["N", 8], [1, 8], True),
        ([1, 2, "past", 64], [1, 2, "past + 1", 64], True),
        ([1, 8], [1, 9], False),
        ([1, 8], [1, 1, 8], False),
    ],
)
def test_shapes_have_to_fit(given, left, fits):
    session = Named([("x", [1, 4]), ("state", given)], [("y", [1, 3]), ("state_out", left)])
    assert find_states(session) == ({"state": 1} if fits else {})


def test_types_have_to_fit():
    session = Named([("x", [1, 4]), ("state", [1], "tensor(int64)")], [("y", [1, 3]), ("state_out", [1])])
    assert find_states(session) == {}


def test_a_model_of_states_alone_has_none():
    assert find_states(Named([("state_in", [1, 8])], [("state_out", [1, 8])])) == {}


def test_pairs_that_are_told_are_taken_and_no_others():
    assert states(["a", "state"], ["b", "state_out"], told=["a=b"]) == {"a": "b"}
    assert states(["state"], ["state_out"], told=["none"]) == {}
    assert states(["a", "c"], ["b", "d"], told=["a=b", "c=d"]) == {"a": "b", "c": "d"}


@pytest.mark.parametrize("wrong", ["a", "a=nothing", "nothing=b", "b=a", "=", "none=b"])
def test_a_wrong_pair_is_said_in_one_line(wrong):
    with pytest.raises(DataError) as error:
        states(["a"], ["b"], told=[wrong])
    assert str(error.value) == f"--state {wrong}: expected INPUT=OUTPUT; inputs are x, a, outputs y, b"


def stepping(rng, a, b) -> ort.InferenceSession:
    weights = {"w": normal(rng, 4, 8) / 2, "k": normal(rng, 8, 8) / 3, "v": normal(rng, 8, 3)}
    return open_session(to_ir(parse(STEP.format(a=a, b=b), weights)))


def played(session, rng, count, a="a", *, folder="", kept=1.0) -> list[Sample]:
    """Samples as an application records them: each brings the state that the one before left."""
    state, samples = np.zeros((1, 8), np.float32), []
    for i in range(count):
        feeds: Feeds = {"x": normal(rng, 1, 4), a: state}
        samples.append(Sample(f"{folder}{i:03}.npz", lambda feeds=feeds: feeds))
        state = session.run(None, feeds)[1] * np.float32(kept)
    return samples


def test_states_without_names_are_seen_in_the_data(rng):
    session = stepping(rng, "left_in", "left_out")
    found = find_feedback(session, played(session, rng, 40, "left_in"))
    assert found.states == {"left_in": 1}
    assert found.starts == {f"{i:03}.npz" for i in range(0, 40, 6)}


def test_an_input_that_only_resembles_an_output_is_no_state(rng):
    session = stepping(rng, "left_in", "left_out")
    assert find_feedback(session, played(session, rng, 40, "left_in", kept=1.01)) == Feedback()
    shuffled = played(session, rng, 40, "left_in")[::-1]
    assert find_feedback(session, shuffled) == Feedback()


def test_data_are_not_looked_at_where_names_or_the_user_say_it(rng):
    def unread() -> Feeds:
        raise AssertionError("read")

    samples = [Sample(f"{i}.npz", unread) for i in range(12)]
    assert find_feedback(stepping(rng, "h0", "hn"), samples).states == {"h0": 1}
    assert find_feedback(stepping(rng, "left_in", "left_out"), samples, ["left_in=left_out"]).states == {
        "left_in": 1
    }
    assert find_feedback(stepping(rng, "h0", "hn"), samples, ["none"]) == Feedback()


CACHED = """g (float[1,n,4] x, float[1,p,4] past) => (float[1,n,4] y, float[1,t,4] present) {
    present = Concat<axis=1>(past, x) y = MatMul(x, w) }"""


@pytest.mark.parametrize(("lengths", "states"), [([0, 0, 0, 0], {}), ([0, 3, 4, 5], {"past": 1})])
def test_prompts_that_each_begin_with_an_empty_cache_are_no_sequence(rng, lengths, states):
    session = open_session(to_ir(parse(CACHED, {"w": normal(rng, 4, 4)})))
    samples = []
    for i, length in enumerate(lengths):
        new = 1 if length else 3
        feeds: Feeds = {"x": normal(rng, 1, new, 4), "past": np.zeros((1, length, 4), np.float32)}
        samples.append(Sample(f"a/{i}.npz", lambda feeds=feeds: feeds))
    assert find_feedback(session, samples).states == states


def test_a_state_is_handed_on_until_a_sequence_starts():
    feedback = Feedback({"h": 1}, frozenset({"a0", "b0"}))
    given = {"x": np.ones(2, np.float32), "h": np.zeros((1, 3), np.float32)}
    left = [np.ones(1), np.full((1, 3), 7.0)]
    handed = feedback.feeds("a1", given, left)
    assert handed["x"] is given["x"]
    assert np.array_equal(handed["h"], left[1])
    assert handed["h"].dtype == np.float32
    assert np.array_equal(given["h"], np.zeros((1, 3)))
    assert feedback.feeds("b0", given, left) is given
    assert feedback.feeds("a1", given, None) is given
    assert Feedback().feeds("a1", given, left) is given


def test_a_cache_of_another_length_is_not_handed_on():
    feedback = Feedback({"past": 0}, frozenset({"a"}))
    given = {"past": np.zeros((1, 5, 4), np.float32)}
    assert feedback.feeds("b", given, [np.ones((1, 6, 4))]) is given
    assert np.array_equal(feedback.feeds("b", given, [np.ones((1, 5, 4))])["past"], np.ones((1, 5, 4)))


def test_samples_of_a_folder_follow_one_another():
    names = [f"{folder}/{i:03}.npz" for folder in ("a", "b/c", "b/d") for i in range(5)]
    found = sequences([Sample(name, dict) for name in names])
    assert [[sample.name for sample in each] for each in found] == [names[:5], names[5:10], names[10:]]


def test_long_folders_are_cut():
    found = sequences([Sample(f"{folder}/{i:03}", dict) for folder in "ab" for i in range(150)])
    assert [len(each) for each in found] == [64, 64, 22] * 2


@pytest.mark.parametrize(
    ("count", "lengths"), [(200, [33] * 6 + [2]), (13, [2] * 6 + [1]), (1000, [64] * 15 + [40]), (1, [1])]
)
def test_a_single_folder_is_cut_into_at_least_six_sequences(count, lengths):
    assert [len(each) for each in sequences([Sample(f"{i:04}", dict) for i in range(count)])] == lengths


def test_of_a_stateful_model_whole_sequences_are_chosen():
    samples = [Sample(f"{folder}/{i}", dict) for folder in "abcdefgh" for i in range(10)]
    feedback = Feedback({"h": 0}, frozenset(f"{folder}/0" for folder in "abcdefgh"))
    chosen = chosen_sequences(samples, feedback, 35)
    assert [sample.name for sample in chosen] == [f"{folder}/{i}" for folder in "aeh" for i in range(10)]
    assert len(chosen_sequences(samples, feedback, 3)) == 10
    assert len(chosen_sequences(samples, Feedback(), 35)) == 35
    assert chosen_sequences(samples, feedback, 80) == samples
    # nothing is left, or the rest of a sequence whose first samples went elsewhere
    assert chosen_sequences([], feedback, 35) == []
    assert chosen_sequences(samples[3:25], feedback, 12) == samples[3:10]


@pytest.mark.parametrize(
    ("macs", "steps"), [(0, 80), (FURTHER_MACS // 35, 30), (FURTHER_MACS // 9, 0), (2 * FURTHER_MACS, 0)]
)
def test_as_many_whole_sequences_as_there_is_time_for(macs, steps):
    samples = [Sample(f"{i // 10}/{i % 10}", dict) for i in range(80)]
    feedback = Feedback({"h0": 1}, frozenset(f"{i}/0" for i in range(8)))
    assert len(affordable(samples, feedback, macs)) == steps


def test_evenly_spaced():
    assert evenly("abcdefghi", 3) == ["a", "e", "i"]
    assert evenly("ab", 3) == ["a", "b"]


def test_each_model_gets_its_own_state_back(rng):
    """A gain of 1 % in each step accumulates; sample by sample it would stay 1 %."""
    text = """g (float[1,1] x, float[1,1] h0) => (float[1,1] y, float[1,1] hn) {
        hn = MatMul(h0, k) y = Add(hn, x) }"""
    exact, other = (normalize(to_ir(parse(text, {"k": np.float32([[gain]])}))) for gain in (1.0, 1.01))
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    samples = [(f"{folder}/{i}", {"x": zero, "h0": one}) for folder in "ab" for i in range(5)]
    feedback = Feedback({"h0": 1}, frozenset({"a/0", "b/0"}))
    for model, gain in ((exact, 1.0), (other, 1.01)):
        observation = observe(model, [feeds for _, feeds in samples], feedback)
        opened = observation.opened(model)
        found = [
            float(each.own[0].item())
            for _, each in run_all(observation.session(opened), opened, samples, observation)
        ]
        assert found == pytest.approx([gain**step for step in (1, 2, 3, 4, 5)] * 2, rel=1e-5)
        alone = [
            float(each.own[0].item())
            for _, each in run_all(
                observation.session(opened), opened, samples, replace(observation, feedback=Feedback())
            )
        ]
        assert alone == pytest.approx([gain] * 10, rel=1e-5)


def test_a_run_goes_on_with_the_state_that_was_kept(rng):
    text = """g (float[1,1] x, float[1,1] h0) => (float[1,1] y, float[1,1] hn) {
        hn = MatMul(h0, k) y = Add(hn, x) }"""
    model = normalize(to_ir(parse(text, {"k": np.float32([[2]])})))
    one = np.ones((1, 1), np.float32)
    samples = [(f"{i}", {"x": one, "h0": one}) for i in range(4)]
    feedback = Feedback({"h0": 1}, frozenset({"0"}))
    observation = observe(model, [samples[0][1]], feedback)
    opened = observation.opened(model)
    session = observation.session(opened)
    kept = [None, None]
    found = [
        float(each.own[1].item())
        for block in (samples[:3], samples[3:])
        for _, each in run_all(session, opened, block, observation, kept, 1)
    ]
    assert found == [2, 4, 8, 16]
    assert kept[0] is None
