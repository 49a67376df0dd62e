"""An embedding table that both branches of an If look up is stored once, in 8 bits."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxq.options import Mode, QuantizeOptions
from onnxq.pipeline import quantize
from tests.conftest import parse

BRANCHES = """
g (int64[N,T] ids, bool branch) => (float[N,T,64] y)
{y = If<
  then_branch = one () => (float[N,T,64] a) {e = Gather(table, ids) a = MatMul(e, w)},
  else_branch = two () => (float[N,T,64] b) {f = Gather(table, ids) r = Relu(f) b = MatMul(r, w)}
 >(branch)}
"""


@pytest.mark.parametrize("mode", [Mode.DYNAMIC, Mode.WEIGHTS])
def test_a_table_of_both_branches_is_stored_once(tmp_path, mode):
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in
               {"table": (512, 64), "w": (64, 64)}.items()}  # fmt: skip
    source, output = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(parse(BRANCHES, weights), source)
    quantize(QuantizeOptions(source, output=output, mode=mode, keep_int8=True))
    assert output.stat().st_size < 0.4 * source.stat().st_size
    sessions = [ort.InferenceSession(path) for path in (source, output)]
    for branch in (True, False):
        feeds = {"ids": np.array([[3, 511, 0]]), "branch": np.array(branch)}
        wanted, found = (session.run(None, feeds)[0] for session in sessions)
        noise = np.square(found - wanted).sum() / np.square(wanted).sum()
        assert 0 < noise < (0.03 if mode == Mode.WEIGHTS else 0.001)
