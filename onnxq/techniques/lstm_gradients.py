"""Gauss-Newton Hessian of an LSTM's outputs with respect to a row of its weights, for GPTQ.

Plain GPTQ takes H = E[x x^T] (see `calibration.moments`): it adds up squared errors of single time steps.
But a weight's rounding error is the same at each time step and an LSTM accumulates its inputs, so the
errors add up over time.

Take a combination of the outputs, with a random sign for each. To first order an error e [K] of one row
of the weights changes it by

    sum_t g[t] (x[t] . e) = G . e,    G = sum_t g[t] x[t]

where g[t] is the gradient of the combination with respect to the row's gate before its activation, by
backpropagation through time. Over the random signs, E[(G . e)^2] is the squared change of all outputs.
So E[G G^T] is the row's own H: the Gauss-Newton matrix (N. Schraudolph, Fast curvature matrix-vector
products for second-order gradient descent, 2002).

`gate_gradients` returns g, `row_gradients` G; the caller sums G G^T.
"""

import numpy as np

from onnxq.types import Array, Floats


def gate_gradients(x: Floats, weights: tuple[Floats, Floats, Floats | None], draws: int, seed: int) -> Floats:
    """Return gradients of random combinations of an LSTM's outputs with respect to its gates.

    The gates are taken before their activations. The LSTM is that of the ONNX specification with default
    activations and states that start at 0. Peepholes, clipping and sequence lengths are left out: the
    gradients only weight errors.

    Args:
        x: [seq, batch, K], in the order of the direction.
        weights: W [4 hidden, K], R [4 hidden, hidden], B [8 hidden] of one direction.
        draws: number of combinations.
        seed: of the random signs.

    Returns:
        [seq, draws, batch, 4 hidden].
    """
    w, r, b = weights
    hidden = r.shape[1]
    # forward pass
    gates = x @ w.T
    if b is not None:
        gates = gates + (b[: 4 * hidden] + b[4 * hidden :])
    states = _forward(gates, r)
    # backpropagation through time: h and c are the gradients of hidden state and cell
    signs = np.random.default_rng(seed)
    gradients = np.empty((len(x), draws, *gates.shape[1:]), np.float32)
    h = np.zeros((draws, x.shape[1], hidden), np.float32)
    c = np.zeros_like(h)
    for t in reversed(range(len(x))):
        i, o, f, z, before, after = states[t]
        h += signs.integers(0, 2, h.shape, dtype=np.int8) * np.float32(2) - np.float32(1)
        c += h * o * (1 - after**2)
        gradients[t] = np.concatenate(  # in ONNX's order of gates: input, output, forget, cell
            [c * z * i * (1 - i), h * after * o * (1 - o), c * before * f * (1 - f), c * i * (1 - z**2)],
            axis=-1,
        )
        h, c = gradients[t] @ r, c * f
    return gradients


def _forward(gates: Floats, r: Floats) -> list[tuple[Array, ...]]:
    """Run the LSTM on W x + b, `gates` [seq, batch, 4 hidden], and return the values of each time step.

    These are the input, output and forget gate, the cell candidate, the cell before, and tanh of the cell
    after, each [batch, hidden].
    """
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
    """Return G of each row, [draws * batch, rows, K].

    Args:
        gradients: g, [seq, draws, batch, rows].
        columns: the inputs x that meet the weights, [seq, batch, K].
    """
    seq, draws, batch, rows = gradients.shape
    found = np.matmul(
        gradients.transpose(2, 1, 3, 0).reshape(batch, draws * rows, seq), columns.transpose(1, 0, 2)
    )
    return np.asarray(found.reshape(batch * draws, rows, columns.shape[-1]), np.float32)
