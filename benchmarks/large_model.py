"""Quantize a synthetic model above 2 GB and print the time and the peak memory.

    python benchmarks/large_model.py [--gigabytes 2.5] [--folder DIR] [OPTIONS OF onnxq quantize]

The model is a chain of MatMul and Tanh with its weights as external data; DIR takes the model and the result.
After onnxq's own report the last line gives the float size, the seconds, and the peak memory, also as the
difference to the float size.
"""

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import quantize_command
from onnx import TensorProto, helper

SIDE = 8192


def write_model(folder: Path, layers: int) -> Path:
    """Write the chain, with weights [SIDE, SIDE] in model.onnx.data, and return the model's path."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    with open(folder / "model.onnx.data", "wb") as data:
        for i in range(layers):
            weight = rng.standard_normal((SIDE, SIDE), dtype=np.float32) / np.float32(np.sqrt(SIDE))
            tensor = TensorProto(
                name=f"w{i}",
                data_type=TensorProto.FLOAT,
                dims=weight.shape,
                data_location=TensorProto.EXTERNAL,
            )
            place = {"location": "model.onnx.data", "offset": data.tell(), "length": weight.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            data.write(weight.tobytes())
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"p{i}"], name=f"product{i}"))
            nodes.append(helper.make_node("Tanh", [f"p{i}"], [f"h{i + 1}"], name=f"tanh{i}"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", SIDE]) for name in ("h0", f"h{layers}")
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def main() -> None:
    """Write the model, quantize it and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.5, help="size of the float weights")
    parser.add_argument("--folder", type=Path, help="folder with enough room")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        path = write_model(folder, max(1, round(args.gigabytes * 1e9 / (4 * SIDE * SIDE))))
        calib = folder / "calib"
        calib.mkdir()
        for i in range(16):
            sample = np.random.default_rng(i).normal(size=(1, SIDE)).astype(np.float32)
            np.save(calib / f"{i:02}.npy", sample)
        size = sum(file.stat().st_size for file in folder.glob("model.onnx*"))
        command = quantize_command(path, calib, folder / "model.int8.onnx", *options, quiet=False)
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        memory = f"peak memory {peak / 1e9:.2f} GB ({(peak - size) / 1e9:+.2f} GB)"
        print(f"\nfloat {size / 1e9:.2f} GB, {seconds:.0f} s, {memory}")


if __name__ == "__main__":
    main()
