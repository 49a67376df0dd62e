"""Samples of a report as one can see them: pictures, waveforms, texts."""

import base64
import contextlib
import io
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from onnxq.data.audio import SUFFIXES as AUDIO_SUFFIXES
from onnxq.data.images import SUFFIXES as IMAGE_SUFFIXES
from onnxq.data.images import eight_bits, open_image
from onnxq.errors import DataError
from onnxq.report.charts import curve
from onnxq.report.escaping import printable

SIDE = 160
"""Length of the long side of a picture, pixels."""
CHARACTERS = 240
"""Most characters of a text."""
SECONDS = 30
"""Most seconds of audio that are read."""
NUMBERED = re.compile(r"(.+?\.\w+)(?::(\d+)|\[(\d+)\])")
"""Name of a sample in a file of several: file.txt:3, the third line that is not empty, or file.wav[2]."""


def sample_views(data: Path, names: Iterable[str]) -> dict[str, str]:
    """Return HTML for the samples that are files of a known kind, by name; others are left out.

    Args:
        data: folder or file of samples.
        names: of samples.
    """
    folder = data if data.is_dir() else data.parent
    found = {}
    for name in sorted(set(names)):
        match = NUMBERED.fullmatch(name)
        path = folder / (match[1] if match else name)
        number = int(match[2] or match[3]) if match else None
        suffix = path.suffix.lower()
        if not path.is_file():
            continue
        view = ""
        with contextlib.suppress(
            OSError, ValueError, RuntimeError, DataError
        ):  # no sample is worth the report
            if suffix in IMAGE_SUFFIXES:
                view = _picture(path)
            elif suffix in AUDIO_SUFFIXES:
                view = _waveform(path)
            elif suffix == ".txt" and match and match[2]:
                view = _line(path, number or 1)
        if view:
            found[name] = view
    return found


def _picture(path: Path) -> str:
    with open_image(path, str(path)) as image:
        small = eight_bits(image, str(path)).convert("RGB")
        small.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=80)
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{content}" alt="{escape(printable(path.name))}">'


def _waveform(path: Path) -> str:
    try:
        import soundfile
    except ImportError:
        return ""
    with soundfile.SoundFile(str(path)) as sound:
        values = sound.read(frames=SECONDS * sound.samplerate, dtype="float32", always_2d=True)[:, 0]
    drawn = curve(values.tolist(), 2 * SIDE, 60)
    label = escape(printable(f"waveform of {path.name}"))
    return (
        f'<svg class="wave" viewBox="0 0 {2 * SIDE} 60" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><path d="{drawn}"/></svg>'
    )


def _line(path: Path, number: int) -> str:
    """Return the text of a line, counted from 1 without empty lines."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        full = (line.strip() for line in lines)
        text = next((line for i, line in enumerate(filter(None, full), start=1) if i == number), "")
    short = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"
    return f"<blockquote>{escape(printable(short))}</blockquote>"
