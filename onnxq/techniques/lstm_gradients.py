"""What an LSTM's outputs feel of an error in its weights: gradients through time.

A rounding error of a weight is the same at each step, and an LSTM adds up what it is told: errors of single steps
(E[x x^T], see `calibration.moments`) say little of what they become together. To first order an error e of one row of the
weights changes the outputs by sum_t g[t] (x[t] e), where g[t] is the gradient of an output with respect to that row's gate at
step t. With G = sum_t g[t] x[t] over random combinations of the outputs, E[G G^T] is that row's own H for GPTQ: the
Gauss-Newton matrix (N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, 2002).
"""

import numpy as np

from onnxq.types import Array, Floats


def gate_gradients(x: Floats, weights: tuple[Floats, Floats, Floats | None], draws: int, seed: int) -> Floats:
    """Gradients of random combinations of an LSTM's outputs with respect to its gates before their activations.

    The LSTM is that of the ONNX specification with its default activations and states that start at 0; peepholes,
    clipping and lengths of sequences are left out, for what is made of this only weighs errors.

    Args:
        x: [seq, batch, K], in the order of the direction.
        weights: W [4 hidden, K], R [4 hidden, hidden], B [8 hidden] of one direction.
        draws: combinations of the outputs, of a sign for each of them.
        seed: of the signs.

    Returns:
        [seq, draws, batch, 4 hidden].
    """
    w, r, b = weights
    hidden = r.shape[1]
    gates = x @ w.T
    if b is not None:
        gates = gates + (b[: 4 * hidden] + b[4 * hidden :])
    states = _forward(gates, r)
    signs = np.random.default_rng(seed)
    found = np.empty((len(x), draws, *gates.shape[1:]), np.float32)
    h = np.zeros((draws, x.shape[1], hidden), np.float32)
    c = np.zeros_like(h)
    for t in reversed(range(len(x))):
        i, o, f, z, before, after = states[t]
        h += signs.integers(0, 2, h.shape, dtype=np.int8) * np.float32(2) - np.float32(1)
        c += h * o * (1 - after**2)
        found[t] = np.concatenate(
            [c * z * i * (1 - i), h * after * o * (1 - o), c * before * f * (1 - f), c * i * (1 - z**2)],
            axis=-1,
        )
        h, c = found[t] @ r, c * f
    return found


def _forward(gates: Floats, r: Floats) -> list[tuple[Array, ...]]:
    """Input, output and forget gate, candidate, cell before, and tanh of the cell after each step, of gates [seq, batch, 4 hidden]."""
    hidden = r.shape[1]
    h = np.zeros((gates.shape[1], hidden), np.float32)
    c = np.zeros_like(h)
    steps: list[tuple[Array, ...]] = []
    for gate in gates:
        total = gate + h @ r.T
        i, o, f = (
            1 / (1 + np.exp(-np.clip(total[:, n * hidden : (n + 1) * hidden], -40, 40))) for n in range(3)
        )
        z = np.tanh(total[:, 3 * hidden :])
        before, c = c, f * c + i * z
        after = np.tanh(c)
        steps.append((i, o, f, z, before, after))
        h = o * after
    return steps


def row_gradients(gradients: Floats, columns: Floats) -> Floats:
    """G of each row, [draws * batch, rows, K], from gradients [seq, draws, batch, rows] and what is multiplied [seq, batch, K]."""
    seq, draws, batch, rows = gradients.shape
    found = np.matmul(
        gradients.transpose(2, 1, 3, 0).reshape(batch, draws * rows, seq), columns.transpose(1, 0, 2)
    )
    return np.asarray(found.reshape(batch * draws, rows, columns.shape[-1]), np.float32)
