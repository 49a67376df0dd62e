"""Text files: one sample per line or per block of tokens, encoded with a tokenizer.json."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.hugging_face import beside
from onnxq.data.preprocessing import Forms, TextForm
from onnxq.data.reading import MOST_CHARACTERS, check_count, exists, library_errors
from onnxq.data.sample import Sample
from onnxq.errors import DataError
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds

MOST_LINE_BYTES = 4 * MOST_CHARACTERS
"""Most bytes of a line: of `MOST_CHARACTERS` in UTF-8."""
NFKD_GROWTH = 18
"""Characters that one character becomes at most, U+FDFA in compatibility decomposition (Unicode, UAX #15)."""
PREPENDED = 16
"""Characters of a short text, to which a normalizer prepends others."""


def text_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per line that is not empty, or one per whole block of tokens.

    Raises:
        DataError: The tokenizer is missing or not readable, or the text is not UTF-8.
    """
    tokenize = tokenizer_of(path.parent, specs, forms)
    if forms.text.block is not None:
        starts = []
        for begin in _block_starts(path, tokenize, forms.text.block):
            starts.append(begin)
            check_count(path, len(starts))
        if not starts:
            raise DataError(
                f"{path}: fewer tokens than one block of {forms.text.block}: reduce 'block' in "
                "[preprocess.text] or add text"
            )
        return [
            Sample(f"{path.name}[{i}]", partial(_load_block, path, tokenize, *start))
            for i, start in enumerate(starts)
        ]
    starts_of_lines = []
    for start, line in _lines(path):
        if line.strip():
            starts_of_lines.append(start)
            check_count(path, len(starts_of_lines))
    return [
        Sample(f"{path.name}:{i}", partial(_load_line, path, start, tokenize))
        for i, start in enumerate(starts_of_lines, start=1)
    ]


class Tokenize:
    """Tokenizer that makes feeds from text."""

    def __init__(self, tokenizer: Any, form: TextForm, specs: Sequence[InputSpec], where: Path) -> None:
        self.tokenizer, self.form = tokenizer, form
        with library_errors(f"{where}: the tokenizer is damaged", "save it again"):
            self.growth, self.copies = _growth(tokenizer)
        self.specs = {spec.name: spec for spec in specs}
        if form.ids not in self.specs:
            names = ", ".join(self.specs)
            raise DataError(
                f"{where}: no input '{form.ids}' for token ids, the model has [{names}]: set 'ids' in "
                "[preprocess.text]"
            )

    def ids(self, text: str, where: str, *, special: bool) -> list[int]:
        """Encode a text as token ids; `where` names it in errors.

        Raises:
            DataError: The text is too long, or the tokenizer fails on it.
        """
        growth, length = self.growth * (self.copies if special else 1), len(text)
        if length * NFKD_GROWTH > MOST_CHARACTERS:
            length = len(unicodedata.normalize("NFKD", text))
        if length * growth > MOST_CHARACTERS:
            times = f", {growth:.3g} times as many in the tokenizer" if growth > 1 else ""
            raise DataError(
                f"sample {where}: a text of {len(text):,} characters{times}, more than {MOST_CHARACTERS:,}: "
                "split it into lines"
            )
        with library_errors(
            f"sample {where}: the tokenizer fails on the text", "remove it, or save another tokenizer"
        ):
            return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def feeds(self, text: str, where: str) -> Feeds:
        """Encode a text as one sample, [1, tokens] per input; `where` names it in errors."""
        ids = self.ids(text, where, special=self.form.special)[: self.form.max_length]
        return self.pack(ids)

    def pack(self, ids: list[int]) -> Feeds:
        """Make the text inputs and the empty state for token ids."""
        form, length = self.form, len(ids)
        filled = max(form.pad_to or 0, length)
        positions = np.arange(filled)
        values = {
            form.ids: np.concatenate([np.array(ids, np.int64), np.full(filled - length, self._padding())]),
            form.mask: (positions < length).astype(np.int64),
            form.types: np.zeros(filled, np.int64),
            form.positions: positions,
        }
        feeds: Feeds = {}
        for name, value in values.items():
            spec = self.specs.get(name)
            if spec is not None:
                feeds[name] = value[None].astype(spec.dtype)
        return feeds | {name: empty_state(spec) for name, spec in self.specs.items() if is_state(name, form)}

    def _padding(self) -> int:
        """Return the padding token id of the tokenizer, by default 0."""
        own = self.tokenizer.padding
        return int(own["pad_id"]) if own else 0


def is_state(name: str, form: TextForm) -> bool:
    """Tell whether an input is a state of earlier tokens, such as a key-value cache."""
    return fnmatchcase(name, form.state)


def empty_state(spec: InputSpec) -> Array:
    """Make a state of zero tokens: 1 for the first dynamic size, 0 for all others."""
    open_sizes = iter([1, *[0] * len(spec.shape)])
    return np.zeros([next(open_sizes) if size is None else size for size in spec.shape], spec.dtype)


def tokenizer_of(folder: Path, specs: Sequence[InputSpec], forms: Forms) -> Tokenize:
    """Read the tokenizer set in [preprocess.text], or the one in the data folder."""
    places = [forms.where / forms.text.tokenizer] if forms.where is not None else []
    places += [parent / forms.text.tokenizer for parent in (folder, *folder.parents)][:2]
    places += [place / forms.text.tokenizer for place in beside(forms.beside)]
    path = next((place for place in places if exists(place) and place.is_file()), None)
    if path is None:
        raise DataError(
            f"{folder}: text needs a tokenizer, but {places[0]} does not exist: put it there, or set "
            "'tokenizer' in [preprocess.text]"
        )
    return Tokenize(_read_tokenizer(path), forms.text, specs, folder)


@lru_cache(maxsize=4)
def _read_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError(f"{path}: text needs tokenizers: pip install tokenizers") from error
    with library_errors(f"{path}: not a tokenizer.json", "save the tokenizer again"):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        own = tokenizer.padding
        tokenizer.no_padding()
        if own:  # keep its id for pad_to, drop its length
            tokenizer.enable_padding(pad_id=own["pad_id"], pad_token=own["pad_token"])
        return tokenizer


def _growth(tokenizer: Any) -> tuple[float, int]:
    """Return how many times longer the normalizer and the post-processor can make a text.

    A few replacements in a row, each of one character by ten, need any amount of memory.
    """
    normalizer, processor = (
        {} if part is None else json.loads(part.__getstate__())  # its part of the tokenizer.json
        for part in (tokenizer.normalizer, tokenizer.post_processor)
    )
    longer = 1.0
    for step in _steps(normalizer, "normalizers"):
        if step.get("type") == "Replace":
            pattern, content = step.get("pattern", {}), len(step.get("content", ""))
            replaced = len(pattern.get("String", ".")) if isinstance(pattern, dict) else 1
            longer *= max(1.0, content / replaced if replaced else content + 1.0)
        elif step.get("type") == "Prepend":
            longer *= 1 + len(step.get("prepend", "")) / PREPENDED
    copies = 1
    for step in _steps(processor, "processors"):
        if step.get("type") == "TemplateProcessing":
            copies *= max(1, sum("Sequence" in part for part in step.get("single", [])))
    return longer, copies


def _steps(step: Any, key: str) -> Iterator[dict[str, Any]]:
    """Iterate over the steps of a tokenizer's component, which may be nested sequences."""
    waiting = [step]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict):
            yield step
            waiting += step.get(key) or []


def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, str]]:
    """Iterate over (byte offset, line) from an offset on."""
    try:
        with open(path, "rb") as stream:
            stream.seek(start)
            while line := stream.readline(MOST_LINE_BYTES + 1):
                if len(line) > MOST_LINE_BYTES:
                    raise DataError(
                        f"{path}: a line of more than {MOST_LINE_BYTES >> 20} MiB at byte {start}: split it "
                        "into lines"
                    )
                yield start, line.decode("utf-8")
                start += len(line)
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the file: {error.strerror}: check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {start + error.start}: save it as UTF-8") from error


def _load_line(path: Path, start: int, tokenize: Tokenize) -> Feeds:
    _, line = next(_lines(path, start))
    return tokenize.feeds(line.strip(), f"{path}, byte {start}")


def _block_starts(path: Path, tokenize: Tokenize, block: int) -> Iterator[tuple[int, int]]:
    """Find each whole block: (byte offset of its first line, tokens of that line to skip)."""
    begin: tuple[int, int] | None = None
    filled = 0
    for start, line in _lines(path):
        count = len(tokenize.ids(line, f"{path}, byte {start}", special=False))
        used = 0
        while used < count:
            begin = begin or (start, used)
            taken = min(block - filled, count - used)
            filled, used = filled + taken, used + taken
            if filled == block:
                yield begin
                begin, filled = None, 0


def _load_block(path: Path, tokenize: Tokenize, start: int, skip: int) -> Feeds:
    assert tokenize.form.block is not None
    tokens = (
        token
        for at, line in _lines(path, start)
        for token in tokenize.ids(line, f"{path}, byte {at}", special=False)
    )
    return tokenize.pack(list(islice(tokens, skip, skip + tokenize.form.block)))
