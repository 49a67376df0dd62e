"""Caches of a decoder: outputs that hold an input and more; the other outputs show what their errors cost."""

import numpy as np
import pytest

from onnxq.comparison.caches import CacheError, described, find_caches
from onnxq.comparison.feedback import Feedback
from onnxq.comparison.observation import Comparison, Observed, observe
from onnxq.normalize.passes import normalize
from tests.conftest import normal, parse, run, to_ir

DECODER = """g (float[1,n,4] x, float[1,p,4] past) => (float[1,n,3] y, float[1,t,4] present) {
    key = MatMul(x, k) present = Concat<axis=1>(past, key) turned = Transpose<perm=[0,2,1]>(present)
    scores = MatMul(x, turned) seen = MatMul(scores, present) y = MatMul(seen, v) }"""
PAIRS = {"past": 1}


@pytest.mark.parametrize(
    ("given", "left", "cache"),
    [
        ((1, 2, 0, 64), (1, 2, 5, 64), True),
        ((1, 2, 7, 64), (1, 2, 8, 64), True),
        ((1, 8), (1, 8), False),  # a recurrent state
        ((1, 2, 7, 64), (1, 2, 6, 64), False),
        ((0, 0, 8), (1, 2, 8), False),
        ((1, 8), (1, 1, 8), False),
        ((1, 8), None, False),
    ],
)
def test_a_cache_is_longer_than_the_input_that_takes_it(given, left, cache):
    assert find_caches({"past": 1}, [{"past": given}], [[(1, 3), left]]) == ({1} if cache else frozenset())


def test_it_is_one_only_if_it_grows_in_each_sample():
    given, left = [{"past": (1, 0)}, {"past": (1, 4)}], [[(3,), (1, 4)], [(3,), (1, 4)]]
    assert find_caches(PAIRS, given, left) == frozenset()


def test_a_model_whose_only_float_outputs_are_caches_is_compared_at_them():
    assert find_caches(PAIRS, [{"past": (1, 0)}], [[None, (1, 4)]]) == frozenset()
    assert find_caches(PAIRS, [], []) == frozenset()


def decoder(rng):
    """A decoder, and four prompts of which the first token's keys are a thousandth of the others'."""
    model = normalize(to_ir(parse(DECODER, {"k": normal(rng, 4, 4), "v": normal(rng, 4, 3)})))
    prompts = [normal(rng, 1, 6, 4) for _ in range(4)]
    for prompt in prompts:
        prompt[:, 0] /= 1000
    return model, [{"x": prompt, "past": np.zeros((1, 0, 4), np.float32)} for prompt in prompts]


def noisy_first_key(model, rng, feeds) -> tuple[Observed, Observed]:
    """The values of a prompt, and those with as much noise in the first key as it has signal."""
    expected = run(model, feeds)
    found = [expected[0], expected[1].copy()]
    found[1][:, 0] += expected[1][:, 0] * np.float32([1, -1, 1, -1])
    return tuple(Observed(each, each, each, []) for each in (expected, found))


def test_small_keys_of_the_first_token_do_not_count(rng):
    model, prompts = decoder(rng)
    comparison = Comparison(observe(model, prompts, Feedback(pairs=PAIRS)))
    for number, feeds in enumerate(prompts):
        comparison.add(str(number), *noisy_first_key(model, rng, feeds))
    assert [part.name for part in comparison.outer.parts] == ["y"]
    assert comparison.outer.worst_db() == 200
    (cache,) = comparison.cache_errors()
    assert cache.name == "present"
    assert cache.sqnr_db > 60


def test_without_a_pair_each_kind_of_value_is_a_part(rng):
    model, prompts = decoder(rng)
    comparison = Comparison(observe(model, prompts, Feedback()))
    for number, feeds in enumerate(prompts):
        comparison.add(str(number), *noisy_first_key(model, rng, feeds))
    assert comparison.cache_errors() == []
    assert comparison.outer.worst_db() == pytest.approx(0, abs=0.1)


def test_the_sentence_names_the_worst():
    caches = [CacheError("present.0.value", 6.01), CacheError("present.0.key", 20.0)]
    assert described(caches) == (
        "2 outputs only feed the next step: the others show what their errors cost; alone 6.0 dB or more "
        "('present.0.value')"
    )
    assert described(caches[:1]).startswith("1 output only feeds the next step: the others show")
