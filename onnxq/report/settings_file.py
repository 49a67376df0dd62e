"""The `onnxq.toml` that `onnxq init` writes: settings with comments that say where they come from."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from onnxq.data.preprocessing import ImageForm
from onnxq.evaluation.preprocessing_guess import Guess

COMMENT_COLUMN = 44
"""Column at which comments begin, where the setting is short enough."""


def settings_file(found: Guess, model: Path, data: Path) -> bytes:
    """Return the text of the file, UTF-8."""
    inputs = ", ".join(f"'{spec.name}' {spec.describe()}" for spec in found.specs)
    lines = [
        f"# Settings for {model.name}, found by onnxq init in {found.samples or 'the'} samples of {data}.",
        f"# The model takes {inputs}.",
        f"# See what it gets: onnxq preview {model} {data}",
        *_preprocess(found),
        "",
        "[quantize]",
        f"calib = {_text(data)}",
    ]
    if found.labels is not None:
        lines += ["", "[eval]", f"data = {_text(data)}", f"labels = {_text(found.labels)}"]
    return ("\n".join(lines) + "\n").encode()


def _preprocess(found: Guess) -> list[str]:
    if found.image is not None:
        return ["", "[preprocess]", *_image_lines(found, found.image)]
    if found.kind == "audio" and not found.undecided:
        return ["# Sounds are prepared as the settings beside the model say."]
    if found.kind == "audio":
        note = _noted("# rate = 16000", "undecided: " + found.undecided["rate"])
        return ["", "[preprocess.audio]", note, "resample = true", "mono = true"]
    if found.kind == "text":
        tokenizer = (
            '# tokenizer = "tokenizer.json"'
            if found.tokenizer is None
            else f"tokenizer = {_text(found.tokenizer)}"
        )
        note = f"undecided: {found.undecided['tokenizer']}" if found.undecided else ""
        lengths = [] if found.length is None else [f"max_length = {found.length}", f"pad_to = {found.length}"]
        return ["", "[preprocess.text]", _noted(tokenizer, note), *lengths]
    return ["# Arrays need no preprocessing."]


def _image_lines(found: Guess, form: ImageForm) -> list[str]:
    lines = []
    for each in fields(ImageForm):
        value = getattr(form, each.name)
        reason = found.reasons.get(each.name, "")
        undecided = found.undecided.get(each.name, "")
        note = "; ".join([*([reason] if reason else []), *([f"undecided: {undecided}"] if undecided else [])])
        if value is None or (value == each.default and not note and each.name != "dtype"):
            if undecided:
                lines.append(f"# {each.name}: {note}")
            continue
        lines.append(_noted(f"{each.name} = {_value(value)}", note))
    return lines


def _noted(setting: str, note: str) -> str:
    return f"{setting:{COMMENT_COLUMN}}# {note}" if note else setting


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) and value == round(value, 3) else json.dumps(value)


def _text(value: Path) -> str:
    """Return a path as a TOML string."""
    return json.dumps(str(value))
