"""Gradients through time, against differences of the runtime's own LSTM."""

import numpy as np

from onnxq.techniques.lstm_gradients import gate_gradients, row_gradients
from tests.conftest import normal, parse, run

SEQ, BATCH, K, HIDDEN = 6, 2, 3, 4


def outputs(x, w, r, b):
    text = f"""g (float[{SEQ},{BATCH},{K}] x) => (float[{SEQ},1,{BATCH},{HIDDEN}] y) {{
        y = LSTM<hidden_size={HIDDEN}>(x, w, r, b) }}"""
    (found,) = run(parse(text, {"w": w[None], "r": r[None], "b": b[None]}), {"x": x})
    return found[:, 0].astype(np.float64)


def test_gradients_are_what_weights_do_to_the_outputs(rng):
    x, w, r, b = normal(rng, SEQ, BATCH, K), normal(rng, 16, K), normal(rng, 16, HIDDEN), normal(rng, 32)
    found = row_gradients(gate_gradients(x, (w, r, b), 64, 7), x)
    assert found.shape == (64 * BATCH, 16, K)
    # over random signs, a combination's mean squared change is the sum of the outputs' squared changes
    expected = np.zeros((16, K))
    for row in range(16):
        for column in range(K):
            moved = w.copy()
            moved[row, column] += 1e-2
            expected[row, column] = np.square((outputs(x, moved, r, b) - outputs(x, w, r, b)) / 1e-2).sum()
    measured = np.square(found).reshape(BATCH, 64, 16, K).mean(axis=1).sum(axis=0)
    np.testing.assert_allclose(measured.sum(axis=1), expected.sum(axis=1), rtol=0.5)
    assert np.corrcoef(measured.ravel(), expected.ravel())[0, 1] > 0.95


def test_the_same_seed_gives_the_same_gradients(rng):
    weights = normal(rng, 16, K), normal(rng, 16, HIDDEN), None
    x = normal(rng, SEQ, BATCH, K)
    np.testing.assert_array_equal(gate_gradients(x, weights, 3, 5), gate_gradients(x, weights, 3, 5))
    assert not np.array_equal(gate_gradients(x, weights, 3, 5), gate_gradients(x, weights, 3, 6))
