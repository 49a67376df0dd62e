"""`onnxq init`: find the preprocessing of a model's data, and say what stays undecided.

Layout, channels and size come from the model's input. Mean and deviation are those of a known family: written
beside the model, or the family with which a classifier's decisions are right (with labels), or certain and
different from one another (without).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxq.data import hugging_face
from onnxq.data.audio import SUFFIXES as AUDIO_SUFFIXES
from onnxq.data.images import SUFFIXES as IMAGE_SUFFIXES
from onnxq.data.images import decode, guess, open_image
from onnxq.data.labels import labelled
from onnxq.data.preprocessing import ImageForm
from onnxq.data.reading import library_errors
from onnxq.data.recordings import recorded_inputs
from onnxq.data.sample import Sample
from onnxq.data.samples import open_samples, spread
from onnxq.errors import DataError, OnnxqError
from onnxq.graph.files import load
from onnxq.runtime.sessions import InputSpec, input_specs, open_session, run
from onnxq.types import Array

IMAGES = 24
"""Images on which the families are compared."""
CLOSE = 0.9
"""Share of the best score above which a family cannot be told from the best one."""
RAW, RAW_LEAD = 10.0, 5.0
"""Standard deviation (pixel units) below which a family feeds large values, and how many times as informative
decisions must be with these: values that are too large make any model certain."""
ANY_SIZE = 224
"""Height and width that stand for those of a model which takes any."""
CROP_SHARE, CROPPED_FROM = 224 / 256, 128
"""Common share of the resized image that a crop keeps, and least size of an input that is cropped."""
FAMILIES: dict[str, ImageForm] = {
    "ImageNet": ImageForm(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    "-1..1": ImageForm(mean=(127.5,), std=(127.5,)),
    "-1..1 with 127 and 128": ImageForm(mean=(127.0,), std=(128.0,)),
    "0..1": ImageForm(mean=(0.0,), std=(255.0,)),
    "raw pixels": ImageForm(mean=(0.0,), std=(1.0,)),
    "CLIP": ImageForm(mean=(122.771, 116.746, 104.094), std=(68.501, 66.632, 70.323)),
    "Caffe": ImageForm(channels="BGR", mean=(103.939, 116.779, 123.68), std=(1.0,)),
}
"""Known families of mean and standard deviation, in pixel units."""


@dataclass(frozen=True)
class Guess:
    """What was found.

    kind       "images", "audio", "text" or "arrays"
    samples    number of samples
    labels     labels file in the folder; None without
    image      preprocessing of images; None for other kinds
    tokenizer  path of tokenizer.json for texts; None if there is none
    length     tokens of a text model with a fixed length
    reasons    where the value of a key comes from
    undecided  what the user has to check, by key
    """

    kind: str
    specs: Sequence[InputSpec]
    samples: int
    labels: Path | None = None
    image: ImageForm | None = None
    tokenizer: Path | None = None
    length: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    undecided: Mapping[str, str] = field(default_factory=dict)


def guess_preprocessing(model: Path, data: Path) -> Guess:
    """Look at a model and its data.

    Args:
        model: float model.
        data: folder or file of samples.

    Raises:
        OnnxqError: the model or the data cannot be used.
    """
    load(model)
    session = open_session(model)
    specs = input_specs(session)
    folder = recorded_inputs(data, specs, model)
    files = _files(folder)
    labels = next((file for file in files if file.name == "labels.csv"), None)
    suffixes = {file.suffix.lower() for file in files}
    if suffixes & {".npy", ".npz"}:
        return Guess("arrays", specs, len(open_samples(data, specs, model=model)), labels)
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        return _images(session, specs, images, data, labels, model.absolute().parent)
    if suffixes & set(AUDIO_SUFFIXES):
        count = sum(file.suffix.lower() in AUDIO_SUFFIXES for file in files)
        if hugging_face.sound_form(model.absolute().parent) is not None:
            return Guess("audio", specs, count, labels)
        undecided = {"rate": "the sample rate that the model takes"}
        return Guess("audio", specs, count, labels, undecided=undecided)
    if ".txt" in suffixes:
        return _texts(specs, data, labels, model.absolute().parent)
    return Guess("arrays", specs, len(open_samples(data, specs, model=model)), labels)


def _files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise DataError(f"{folder}: no such data folder: check the path")
    return [folder] if folder.is_file() else sorted(file for file in folder.rglob("*") if file.is_file())


def _texts(specs: list[InputSpec], data: Path, labels: Path | None, beside: Path) -> Guess:
    folders = [*hugging_face.beside(beside), data if data.is_dir() else data.parent]
    places = [folder / hugging_face.TOKENIZER for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    lengths = {spec.shape[-1] for spec in specs if len(spec.shape) == 2}
    undecided = {} if found is not None else {"tokenizer": "the path of the model's tokenizer.json"}
    length = lengths.pop() if len(lengths) == 1 else None
    return Guess("text", specs, 0, labels, tokenizer=found, length=length, undecided=undecided)


def _images(
    session: ort.InferenceSession,
    specs: list[InputSpec],
    images: Sequence[Path],
    data: Path,
    labels: Path | None,
    beside: Path,
) -> Guess:
    form, reasons, undecided = _from_shape(specs)
    given = hugging_face.image_form(beside)
    if given is not None:
        kept = {key: getattr(form, key) for key in ("channels", "layout", "dtype", "input")}
        source = f"from {hugging_face.PREPROCESSOR}"
        keys = ("mean", "std", "resize", "resize_short", "crop", "filter")
        return Guess(
            "images", specs, len(images), labels, replace(given, **kept),
            reasons=reasons | {key: source for key in keys if getattr(given, key) is not None},
        )  # fmt: skip
    if np.dtype(form.dtype).kind != "f":
        form = replace(form, mean=(0.0,), std=(1.0,))
        reasons["mean"] = "the input takes integers"
        return Guess("images", specs, len(images), labels, form, reasons=reasons)
    root = data if data.is_dir() else data.parent
    chosen = spread(_labelled(images, root, labels), IMAGES)
    trying = _Trying(session, [root / sample.name for sample in chosen], _classes(chosen))
    form, more, open_questions = _normalization(trying, form)
    geometry, why, unsure = _geometry(trying, form)
    return Guess(
        "images", specs, len(images), labels, geometry,
        reasons=reasons | more | why, undecided=undecided | open_questions | unsure,
    )  # fmt: skip


def _from_shape(specs: list[InputSpec]) -> tuple[ImageForm, dict[str, str], dict[str, str]]:
    """Return layout, channels and size from the image input; its name where there are several inputs."""
    fixed = [
        replace(spec, shape=(spec.shape[0], *(size or ANY_SIZE for size in spec.shape[1:])))
        for spec in specs
        if len(spec.shape) == 4
    ]
    form = guess(fixed)
    spec = next(spec for spec in specs if spec.name == form.input)
    height, width = spec.shape[2:] if form.layout == "NCHW" else spec.shape[1:3]
    free = height is None or width is None
    form = replace(form, resize=None if free else form.resize, input=None if len(specs) == 1 else form.input)
    reasons = {"layout": f"input {spec.describe()}", "channels": "the order of three channels is RGB mostly"}
    undecided = {"channels": '"BGR" if the model was trained with OpenCV'} if form.channels == "RGB" else {}
    if free:
        undecided["resize"] = "the model takes any size: images keep theirs"
    return form, reasons, undecided


@dataclass(frozen=True)
class _Trying:
    """Images through the model with one preprocessing or another."""

    session: ort.InferenceSession
    images: Sequence[Path]
    labels: Sequence[int] | None

    def score(self, form: ImageForm) -> float | None:
        """Return the share of right decisions, or the information in them; None if there are no decisions."""
        rows = []
        for image in self.images:
            name = form.input or self.session.get_inputs()[0].name
            try:
                outputs = run(self.session, {name: decode(image, form, str(image))}, image.name)
            except OnnxqError:
                return None
            if not decides(outputs):
                return None
            rows.append(probabilities(outputs[0][0]))
        if self.labels is not None:
            right = [int(row.argmax()) == label for row, label in zip(rows, self.labels, strict=True)]
            return float(np.mean(right))
        mean = np.mean(rows, axis=0)
        return _entropy(mean) - float(np.mean([_entropy(row) for row in rows]))

    def best(self, forms: Mapping[str, ImageForm]) -> tuple[str | None, list[str]]:
        """Return the name of the form with the best score, and of those that cannot be told from it.

        Without labels, the first of these in the order of `forms` is the best.
        """
        scores = {name: self.score(form) for name, form in forms.items()}
        known = {name: score for name, score in scores.items() if score is not None}
        if not known or max(known.values()) <= 0:
            return None, list(forms)
        if self.labels is None:
            weight = {name: 1 / RAW_LEAD if _is_raw(forms[name]) else 1.0 for name in known}
            known = {name: score * weight[name] for name, score in known.items()}
        top = max(known.values())
        close = [name for name, score in known.items() if score >= CLOSE * top]
        return close[0] if self.labels is None else max(close, key=lambda name: known[name]), close


def _is_raw(form: ImageForm) -> bool:
    """Tell whether a form feeds values far above 1."""
    return min(form.std or (1.0,)) < RAW


def _labelled(images: Sequence[Path], root: Path, labels: Path | None) -> list[Sample]:
    """Return the images by their names in the data folder, with labels if the file fits."""
    samples = [Sample(str(image.relative_to(root)), dict) for image in images]
    try:
        return labelled(samples, None if labels is None else str(labels))
    except DataError:
        return samples


def _classes(samples: Sequence[Sample]) -> list[int] | None:
    """Return the class numbers of samples; None if one has none."""
    try:
        return [int(sample.label or "") for sample in samples]
    except ValueError:
        return None


def decides(outputs: Sequence[Array]) -> bool:
    """Tell whether the first output is one decision between classes."""
    first = outputs[0]
    return isinstance(first, np.ndarray) and first.ndim == 2 and first.shape[0] == 1 and first.shape[1] > 1


def probabilities(row: Array) -> Array:
    """Return a row of probabilities; logits go through a softmax."""
    finite: Array = np.nan_to_num(row.astype(np.float64))
    if finite.min() < 0 or abs(finite.sum() - 1) >= 1e-2:
        finite = np.exp(finite - finite.max())
    shares: Array = finite / finite.sum()
    return shares


def _entropy(row: Array) -> float:
    return float(-(row * np.log(np.maximum(row, 1e-12))).sum())


def _normalization(trying: _Trying, form: ImageForm) -> tuple[ImageForm, dict[str, str], dict[str, str]]:
    """Choose mean and deviation among the families."""
    families = {
        name: replace(
            form, mean=family.mean, std=family.std, channels="BGR" if name == "Caffe" else form.channels
        )
        for name, family in FAMILIES.items()
        if form.channels in ("RGB", "BGR") or len(family.mean or ()) == 1
    }
    name, close = trying.best(families)
    if name is None:
        first = next(iter(families))
        others = ", ".join(each for each in families if each != first)
        return families[first], {"mean": f"{first}; nothing in the model says so"}, {"mean": f"or {others}"}
    others = ", ".join(each for each in close if each != name)
    if trying.labels is None:
        doubt = f"its decisions are as certain with {others}" if others else "no labels confirm it"
        return families[name], {"mean": f"{name}: fits the model's decisions"}, {"mean": doubt}
    undecided = {"mean": f"the labels fit as well: {others}"} if others else {}
    return families[name], {"mean": f"{name}: fits the labels best"}, undecided


def _geometry(trying: _Trying, form: ImageForm) -> tuple[ImageForm, dict[str, str], dict[str, str]]:
    """Choose how images get the size of the input: not at all, by a resize, or by a resize and a crop."""
    if form.resize is None:
        return form, {}, {}
    height, width = form.resize
    if all(_size_of(image) == (width, height) for image in trying.images):
        return replace(form, resize=None), {"resize": "images have the size of the input"}, {}
    unsure = {"filter": 'or "bicubic", "box": as the training resized images'}
    forms = {"resize": form}
    if height == width >= CROPPED_FROM:
        short = round(height / CROP_SHARE)
        forms["crop"] = replace(form, resize=None, resize_short=short, crop=(height, width))
    name, close = trying.best(forms)
    if len(forms) == 1:
        return form, {"resize": "the size of the input"}, unsure
    if name is None or len(close) > 1 or trying.labels is None:
        crop = forms["crop"]
        other = f"or resize_short = {crop.resize_short} and crop = [{height}, {width}]"
        return form, {"resize": "the size of the input"}, {"resize": other} | unsure
    return forms[name], {"resize" if name == "resize" else "crop": "fits the labels best"}, unsure


def _size_of(image: Path) -> tuple[int, int]:
    where = f"sample {image}: not an image, or truncated"
    with library_errors(where, "remove it"), open_image(image, str(image)) as file:
        size: tuple[int, int] = file.size
        return size
