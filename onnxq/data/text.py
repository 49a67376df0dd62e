"""Text files: one sample per line or per block of tokens, encoded with a tokenizer.json."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.data.preprocessing import Forms, TextForm
from onnxq.data.sample import Sample
from onnxq.errors import DataError, first_line
from onnxq.runtime.sessions import InputSpec
from onnxq.types import Array, Feeds


def text_samples(path: Path, specs: list[InputSpec], forms: Forms) -> list[Sample]:
    """Make one sample per line that is not empty, or one per whole block of tokens.

    Raises:
        DataError: The tokenizer is missing or not readable, or the text is not UTF-8.
    """
    tokenize = tokenizer_of(path.parent, specs, forms)
    if forms.text.block is not None:
        starts = list(_block_starts(path, tokenize, forms.text.block))
        if not starts:
            raise DataError(
                f"{path}: fewer tokens than one block of {forms.text.block}: reduce 'block' in "
                "[preprocess.text] or add text"
            )
        return [
            Sample(f"{path.name}[{i}]", partial(_load_block, path, tokenize, *start))
            for i, start in enumerate(starts)
        ]
    starts_of_lines = [start for start, line in _lines(path) if line.strip()]
    return [
        Sample(f"{path.name}:{i}", partial(_load_line, path, start, tokenize))
        for i, start in enumerate(starts_of_lines, start=1)
    ]


class Tokenize:
    """Tokenizer that makes feeds from text."""

    def __init__(self, tokenizer: Any, form: TextForm, specs: Sequence[InputSpec], where: Path) -> None:
        self.tokenizer, self.form, self.where = tokenizer, form, where
        self.specs = {spec.name: spec for spec in specs}
        if form.ids not in self.specs:
            names = ", ".join(self.specs)
            raise DataError(
                f"{where}: no input '{form.ids}' for token ids, the model has [{names}]: set 'ids' in "
                "[preprocess.text]"
            )

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Encode a text as token ids."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def feeds(self, text: str) -> Feeds:
        """Encode a text as one sample, [1, tokens] per input."""
        ids = self.ids(text, special=self.form.special)[: self.form.max_length]
        return self.pack(ids)

    def pack(self, ids: list[int]) -> Feeds:
        """Make the text inputs and the empty state for token ids."""
        form, length = self.form, len(ids)
        filled = max(form.pad_to or 0, length)
        positions = np.arange(filled)
        values = {
            form.ids: np.array(ids + [self._padding()] * (filled - length)),
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
    path = next((place for place in places if place.is_file()), None)
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
        raise DataError(f"{path}: text needs tokenizers: pip install 'onnxq[text]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise DataError(
            f"{path}: not a tokenizer.json: {first_line(error)}: save the tokenizer again"
        ) from error
    tokenizer.no_truncation()
    own = tokenizer.padding
    tokenizer.no_padding()
    if own:  # keep its id for pad_to, drop its length
        tokenizer.enable_padding(pad_id=own["pad_id"], pad_token=own["pad_token"])
    return tokenizer


def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, str]]:
    """Iterate over (byte offset, line) from an offset on."""
    try:
        with open(path, "rb") as stream:
            stream.seek(start)
            for line in stream:
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
    return tokenize.feeds(line.strip())


def _block_starts(path: Path, tokenize: Tokenize, block: int) -> Iterator[tuple[int, int]]:
    """Find each whole block: (byte offset of its first line, tokens of that line to skip)."""
    begin: tuple[int, int] | None = None
    filled = 0
    for start, line in _lines(path):
        count = len(tokenize.ids(line, special=False))
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
    tokens = (token for _, line in _lines(path, start) for token in tokenize.ids(line, special=False))
    return tokenize.pack(list(islice(tokens, skip, skip + tokenize.form.block)))
