"""What gradients of 8 bits cost in accuracy: finetuned files against float, mean over several seeds.

    python benchmarks/gradient_bits.py MODEL CALIB EVAL [--weight-bits 4] [--steps 120] [--seeds 6]

A row a seed: SQNR of the finetuned file on the samples of EVAL, which nothing else uses, with gradients of 32
and of 8 bits. One process; on a cluster the bytes are the same.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from harness import print_header, print_row

import onnxq
from onnxq.pipeline import finetune


def sqnr_db(arguments: argparse.Namespace, folder: Path, bits: int, seed: int) -> float:
    """Finetune with gradients of some bits; return the SQNR on the samples of EVAL, dB."""
    output = folder / "tuned.onnx"
    options = onnxq.QuantizeOptions(
        arguments.model, arguments.calib, output=output, keep_int8=True, force=True, effort=onnxq.Effort.FAST
    )
    tuning = onnxq.FinetuneOptions(
        bits=(arguments.weight_bits,), steps=arguments.steps, seed=seed, gradient_bits=bits
    )
    finetune(options, tuning)
    return float(onnxq.evaluate(arguments.model, [output], arguments.eval, latency=False).scores[1].sqnr_db)


def main() -> None:
    """Print a row for each seed, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("--weight-bits", type=int, default=4)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=6)
    arguments = parser.parse_args()
    rows = []
    print_header(["seed", "32 bits, dB", "8 bits, dB", "difference"])
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.seeds):
            one, other = (sqnr_db(arguments, Path(scratch), bits, seed) for bits in (32, 8))
            rows.append((one, other, other - one))
            print_row([seed, *(f"{each:.2f}" for each in rows[-1])])
    print_row(["mean", *(f"{each:.2f}" for each in np.mean(rows, axis=0))])


if __name__ == "__main__":
    main()
