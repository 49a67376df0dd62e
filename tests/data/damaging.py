"""Small valid files of every kind that onnxq reads, and damaged copies of them.

`python -m tests.data.damaging COPIES [KIND ...]` reads COPIES damaged copies of each kind in this process, and
prints a line for each: kind, number of the copy, and "worked", "refused" or the fault. A hang ends it.
"""

import faulthandler
import json
import random
import resource
import sys
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import Whitespace

from onnxq.calibration.sketch import Sketch, measure
from onnxq.calibration.statistics import Statistics, load_statistics
from onnxq.data.labels import labelled
from onnxq.data.preprocessing import Forms, ImageForm, TableForm, read_forms
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import OnnxqError
from onnxq.evaluation.baseline import checksum, read_baseline
from onnxq.runtime.sessions import InputSpec

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
ROW = [InputSpec("x", FLOAT, (None, 3))]
IMAGE = [InputSpec("x", FLOAT, (1, 3, 8, 8))]
WAVE = [InputSpec("x", FLOAT, (1, None))]
TOKENS = [InputSpec("input_ids", LONG, (None, None))]
HANG = 60
"""Seconds that one copy may take."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    name   of the file to damage
    write  writes it, and what it needs, to a folder
    read   reads everything in the folder
    exact  whether a copy that is read must give what the whole file gives
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    exact: bool = False


def _reader(specs: list[InputSpec], forms: Forms | None = None) -> Callable[[Path], object]:
    return lambda folder: [check_feeds(sample, specs) for sample in open_samples(folder, specs, forms)]


def _write_zoo(folder: Path) -> None:
    import onnx

    (folder / "test_data_set_0").mkdir()
    tensor = onnx.numpy_helper.from_array(np.float32([[1, 2, 3]]), "x")
    (folder / "test_data_set_0/input_0.pb").write_bytes(tensor.SerializeToString())


def _write_pixels(folder: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)


def _write_sound(folder: Path) -> None:
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(200, dtype=np.int16).tobytes())


def _write_text(folder: Path) -> None:
    words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.normalizer = Sequence([Lowercase(), Replace("d", "c b")])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "t.txt").write_text("a b c\n\nb d zzz\nä ö ü\n", encoding="utf-8")


def _table() -> pa.Table:
    rows = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    lists = pa.array(rows, pa.list_(pa.float32()))
    return pa.table({"x": lists, "label": ["a", "b", "c"], "note": ["one", None, "three"]})


def _write_arrow(folder: Path) -> None:
    table = _table()
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")


def _write_labels(folder: Path) -> None:
    for i in range(3):
        np.save(folder / f"{i}.npy", np.float32([[i, 2, 3]]))
    (folder / "labels.csv").write_text("file,label\n0.npy,4\n1.npy,\n2.npy,1 2\n")


def _write_forms(folder: Path) -> None:
    (folder / "p.toml").write_text(
        "[preprocess]\nresize_short = 9\ncrop = [8, 8]\nmean = [1.5, 2, 3]\nstd = 2\nfilter = 'bicubic'\n"
        "[preprocess.audio]\nrate = 8000\n[preprocess.table]\ninputs = { x = ['a', 'b'] }\nlabel = 'y'\n"
    )
    _write_pixels(folder, "a.png")


def _read_forms(folder: Path) -> object:
    return _reader(IMAGE, read_forms(str(folder / "p.toml")))(folder)


def statistics() -> Statistics:
    """Make small statistics of two tensors."""
    rng, found = np.random.default_rng(0), Statistics("m", "d", 3)
    for name in ("a", "b"):
        sketch = Sketch()
        for _ in range(3):
            measured = measure(rng.normal(size=50).astype(np.float32))
            assert measured is not None
            sketch.count(measured.bins)
            sketch.add_range(measured)
        found.sketches[name] = sketch
    return found


def _read_statistics(folder: Path) -> object:
    found = load_statistics(folder / "s.npz", "m")
    sketches = {
        name: (each.minimum, each.maximum, each.seen, each.moving_range(), each.counts.tobytes())
        for name, each in found.sketches.items()
    }
    return found.data, found.samples, found.nonfinite, sketches


def baseline() -> dict[str, object]:
    """Make the content of a small baseline."""
    metrics = {"top-1": {"value": 0.97, "low": 0.95, "high": 0.99, "samples": 300}}
    score = {"model": "m.onnx", "metrics": metrics, "sqnr_db": 31.5, "latency_ratio": 0.5, "bytes": 12345}
    return {"scores": [score | {"sqnr_db": None}, score | {"model": "q.onnx"}], "schema": 1}


def _write_baseline(folder: Path) -> None:
    report = baseline()
    (folder / "b.json").write_text(json.dumps(report | {"checksum": checksum(report)}, indent=2))


TABLE = Forms(table=TableForm(inputs={"x": ["x"]}, label="label"))
PIXELS = Forms(image=ImageForm())
KINDS = {
    "npy": Kind("a.npy", lambda folder: np.save(folder / "a.npy", np.float32([[1, 2, 3]] * 4)), _reader(ROW)),
    "npz": Kind("a.npz", lambda folder: np.savez(folder / "a.npz", x=np.float32([[1, 2, 3]])), _reader(ROW)),
    "npz compressed": Kind(
        "a.npz", lambda folder: np.savez_compressed(folder / "a.npz", x=np.ones((4, 3), "f4")), _reader(ROW)
    ),
    "zoo": Kind("test_data_set_0/input_0.pb", _write_zoo, _reader(ROW)),
    "csv": Kind(
        "a.csv",
        lambda folder: (folder / "a.csv").write_text('a,b,c\n1,2,3\n4,"5",6\n7,8.5,9e0\n') and None,
        _reader(ROW),
    ),
    "parquet": Kind(
        "a.parquet", lambda folder: pq.write_table(_table(), folder / "a.parquet"), _reader(ROW, TABLE)
    ),
    "arrow": Kind("data.arrow", _write_arrow, _reader(ROW, TABLE)),
    "state.json": Kind("state.json", _write_arrow, _reader(ROW, TABLE)),
    "png": Kind("a.png", lambda folder: _write_pixels(folder, "a.png"), _reader(IMAGE, PIXELS)),
    "jpg": Kind("a.jpg", lambda folder: _write_pixels(folder, "a.jpg"), _reader(IMAGE, PIXELS)),
    "wav": Kind("a.wav", _write_sound, _reader(WAVE)),
    "txt": Kind("t.txt", _write_text, _reader(TOKENS)),
    "tokenizer": Kind("tokenizer.json", _write_text, _reader(TOKENS)),
    "labels": Kind(
        "labels.csv",
        _write_labels,
        lambda folder: labelled(open_samples(folder, ROW), str(folder / "labels.csv")),
    ),
    "preprocess": Kind("p.toml", _write_forms, _read_forms),
    "stats": Kind(
        "s.npz",
        lambda folder: statistics().save(folder / "s.npz"),
        _read_statistics,
        exact=True,
    ),
    "baseline": Kind("b.json", _write_baseline, lambda folder: read_baseline(folder / "b.json"), exact=True),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut off the end, or swap two pieces."""
    changed = bytearray(content)
    how = chance.randrange(4)
    if how == 0:
        return content[: chance.randrange(len(content))]
    if how == 1:
        size = chance.randint(1, max(1, len(content) // 4))
        one, other = sorted(chance.randrange(len(content) - size + 1) for _ in range(2))
        changed[one : one + size], changed[other : other + size] = (
            changed[other : other + size],
            changed[one : one + size],
        )
        return bytes(changed[: len(content)])
    for _ in range(1 if how == 2 else chance.randint(2, 8)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def outcome(kind: Kind, folder: Path, whole: Path) -> str:
    """Read a folder; "worked", "refused", or the fault."""
    try:
        found = kind.read(folder)
        if kind.exact and found != kind.read(whole):
            return f"other values: {found}"
    except OnnxqError as error:
        lines = str(error).splitlines()
        return "refused" if len(lines) == 1 else f"an error of {len(lines)} lines: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "worked"


def main() -> None:
    """Read damaged copies."""
    for name in sys.argv[2:] or KINDS:
        kind, chance = KINDS[name], random.Random(name)
        with tempfile.TemporaryDirectory() as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            kind.write(whole)
            content = (whole / kind.name).read_bytes()
            print(name, "whole", outcome(kind, whole, whole), sep="\t", flush=True)  # noqa: T201
            for i in range(int(sys.argv[1])):
                # a folder of its own, because readers remember files
                copy = Path(scratch) / str(i)
                copy.mkdir()
                kind.write(copy)
                (copy / kind.name).write_bytes(damaged(content, chance))
                print(name, i, "", sep="\t", end="", flush=True)  # noqa: T201
                faulthandler.dump_traceback_later(HANG, exit=True)
                print(outcome(kind, copy, whole).replace("\n", " "), flush=True)  # noqa: T201
                faulthandler.cancel_dump_traceback_later()
        print(name, "MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, sep="\t", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
