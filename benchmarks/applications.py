"""Record applications of public packages, quantize their models, and run them again unchanged.

    python benchmarks/applications.py FOLDER [--only NAME ...] [--environment FOLDER]
                                      [-- OPTIONS OF onnxq quantize]

FOLDER gets an environment with the packages (or give one that has them), photographs, sounds and pages of
text, and for each application its recording and its int8 files. Each runs three times: as it is, under
`onnxq record`, and with int8 files in place of its own, which are put back afterwards. A row an application:
its models, their sizes, the share of answers that are the same as before, and the CPU seconds of the runs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
import wave
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from corpus_cases import divided
from harness import print_header, print_row, quantize_command
from PIL import Image, ImageDraw, ImageFont
from wild_samples import Data

PROGRAMS = Path(__file__).with_name("applications")
COLUMNS = ("application", "models", "MB", "int8 MB", "answers", "same", "s", "s recorded", "s int8")
PHOTOGRAPHS, SOUNDS, PAGES = 40, 20, 40


@dataclass(frozen=True)
class Application:
    """A program of `applications/`, and the packages that it needs."""

    program: str
    packages: tuple[str, ...]


APPLICATIONS = {
    "voice detector, streaming": Application("voice", ("silero-vad",)),
    "file types": Application("files", ("magika",)),
    "detector": Application("detector", ("nudenet",)),
    "OCR, three models": Application("ocr", ("rapidocr-onnxruntime",)),
    "server, two processes": Application("server", ("gunicorn", "magika")),
    "phonemes": Application("phonemes", ("g2p-id",)),
}


def write_data(folder: Path) -> Path:
    """Write photographs, sounds and pages of text."""
    data = folder / "data"
    if data.is_dir():
        return data
    building = folder / "data.tmp"
    for name in ("photographs", "sounds", "pages"):
        (building / name).mkdir(parents=True)
    source = Data(folder, max(PHOTOGRAPHS, SOUNDS))
    pictures = source.pictures(480, 480, std=1.0, first=False)
    for i, pixels in zip(range(PHOTOGRAPHS), pictures, strict=False):
        Image.fromarray(pixels[0].astype(np.uint8)).save(building / "photographs" / f"{i:02}.png")
    for i, sound in zip(range(SOUNDS), source.sounds(5 * 16000, 16000), strict=False):
        with wave.open(str(building / "sounds" / f"{i:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes((sound[0] * 32767).astype(np.int16).tobytes())
    lines = (line.strip() for name in sorted(topics) for line in topics[name].splitlines())
    chosen = [line[:44] for line in lines if len(line) > 30]
    for i in range(PAGES):
        page = Image.new("RGB", (640, 320), "white")
        text = "\n".join(chosen[i * 6 : i * 6 + 6])
        ImageDraw.Draw(page).multiline_text((20, 20), text, "black", ImageFont.load_default(22), spacing=18)
        page.save(building / "pages" / f"{i:02}.png")
    building.rename(data)
    return data


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment with all packages; make it if it is missing."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        packages = sorted({name for each in APPLICATIONS.values() for name in each.packages})
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def run(command: list[str]) -> tuple[Any, float]:
    """Run a program; return its answers, and the CPU seconds of its processes."""
    before = os.times()
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=quiet)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout.splitlines()[-1]), used


def same_share(found: list[Any], wanted: list[Any]) -> float:
    """Return the share of equal answers; a missing or further one is another one."""
    same = sum(one == other for one, other in zip(found, wanted, strict=False))
    return same / max(1, len(found), len(wanted))


def measure(name: str, folder: Path, python: Path, data: Path, options: list[str]) -> list[str]:
    """Record, quantize and run an application again; return its row."""
    program = [str(python), str(PROGRAMS / f"{APPLICATIONS[name].program}.py"), str(data)]
    place = folder / APPLICATIONS[name].program
    calib = place / "calib"
    wanted, plain = run(program)
    onnxq = [sys.executable, "-m", "onnxq"]
    again, recorded = run([*onnxq, "record", "--force", "-o", str(calib), "-q", "--", *program])
    if again != wanted:
        raise SystemExit(f"{name}: answers something else while it is recorded")
    sizes, swaps = [0, 0], []
    for manifest in sorted(calib.glob("*/recording.json")):
        model = Path(json.loads(manifest.read_text())["path"])
        output = place / "int8" / f"{manifest.parent.name}.onnx"
        shutil.rmtree(output.parent, ignore_errors=True) if not swaps else None
        command = quantize_command(model, calib, output, *options)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sizes = [sizes[0] + model.stat().st_size, sizes[1] + output.stat().st_size]
        swaps.append((model, output))
    try:
        for model, output in swaps:
            shutil.copy2(model, f"{model}.float")
            shutil.copyfile(output, model)
        found, quantized = run(program)
    finally:
        for model, _ in swaps:
            if Path(f"{model}.float").is_file():
                os.replace(f"{model}.float", model)
    return [
        name,
        str(len(swaps)),
        *(f"{size / 1e6:.1f}" for size in sizes),
        str(len(wanted)),
        f"{same_share(found, wanted):.1%}",
        *(f"{seconds:.1f}" for seconds in (plain, recorded, quantized)),
    ]


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=[each.program for each in APPLICATIONS.values()])
    parser.add_argument("--environment", type=Path)
    args = parser.parse_args(own)
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    data, python = write_data(folder), python_of(args.environment or folder / "environment")
    print(time.strftime("%Y-%m-%d"), " ".join(options))
    print_header(COLUMNS)
    for name, application in APPLICATIONS.items():
        if args.only is None or application.program in args.only:
            print_row(measure(name, folder, python.absolute(), data, options))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
