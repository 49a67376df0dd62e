"""The other quantizers that `peers.py` compares, each in a virtual environment of its own."""

import os
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Peer:
    """Another quantizer.

    packages        requirements of its environment
    script          file in peers/ that runs it
    configurations  last argument of the script, one a run
    """

    packages: tuple[str, ...]
    script: str
    configurations: tuple[str, ...]


PEERS = {
    "ONNX Runtime": Peer(
        ("onnxruntime", "onnx", "sympy"),
        "runtime.py",
        (
            "static U8S8 min-max",
            "static U8S8 reduced min-max",
            "static U8S8 percentile",
            "static U8S8 entropy",
            "dynamic",
            "dynamic reduced",
        ),
    ),
    "NNCF": Peer(
        ("nncf", "onnx", "onnxruntime"),
        "nncf_static.py",
        ("default", "mixed sequential overflow fix", "transformer"),
    ),
    "Neural Compressor": Peer(
        (
            "onnx-neural-compressor",
            "onnxruntime<1.21",
            "onnx<1.18",
            "ml-dtypes<0.5",
            "setuptools<80",
            "numpy<2",
            "prettytable",
            "psutil",
            "py-cpuinfo",
            "pyyaml",
            "pydantic",
            "scikit-learn",
        ),
        "neural_compressor.py",
        ("U8S8", "U8S8 reduced"),
    ),
    "AIMET-ONNX": Peer(("aimet-onnx",), "aimet.py", ("default", "equalized")),
    "AMD Quark": Peer(
        ("amd-quark", "onnxruntime", "onnx", "torch"), "quark_static.py", ("U8S8_AAWS", "A8W8")
    ),
}


def interpreter(root: Path, name: str, peer: Peer) -> Path:
    """Return the Python interpreter of a peer's environment in `root`; make the environment if missing."""
    folder = root / name.lower().replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *peer.packages]
        subprocess.run(install, check=True, env=peer_variables())
        (folder / "ready").touch()
    return python


def peer_variables() -> dict[str, str]:
    """Return this process's environment variables without those that older_cpu.py sets."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LD_PRELOAD")}
