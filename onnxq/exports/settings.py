"""How a folder generates: `generation_config.json`, `config.json` and `tokenizer.json` beside its models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxq.data.hugging_face import TOKENIZER, beside
from onnxq.data.reading import library_errors, read_json
from onnxq.errors import DataError
from onnxq.evaluation.generation import TokenRules
from onnxq.exports.parts import SETTINGS

FILES = (SETTINGS, "config.json")
"""Files of settings; the first that has a key counts."""
START = ("decoder_start_token_id", "bos_token_id")


@dataclass(frozen=True)
class GenerationSettings:
    """How a folder generates.

    start  tokens with which the decoder of an encoder begins
    rules  tokens that end a text or are not chosen
    """

    start: tuple[int, ...] = ()
    rules: TokenRules = field(default_factory=TokenRules)


def generation_settings(folder: Path) -> GenerationSettings:
    """Read the settings beside the models of a folder; without files there are none.

    Raises:
        DataError: a file is damaged.
    """
    tables = [table for name in FILES for table in _tables(folder, name)]

    def find(*keys: str) -> Any:
        found = (table.get(key) for key in keys for table in tables)
        return next((value for value in found if value is not None), None)

    where = f"{folder / FILES[0]}"
    start = _tokens(find(*START), where)
    forced = find("forced_decoder_ids") or []
    if not isinstance(forced, list) or not all(isinstance(each, list) and len(each) == 2 for each in forced):
        raise DataError(f"{where}: forced_decoder_ids are no pairs of position and token: correct the file")
    for position, token in forced:
        if position != len(start) or token is None:
            break
        start += _tokens(token, where)
    return GenerationSettings(
        start,
        TokenRules(
            frozenset(_tokens(find("eos_token_id"), where)),
            _tokens(find("suppress_tokens"), where),
            _tokens(find("begin_suppress_tokens"), where),
        ),
    )


def text_of(folder: Path) -> Callable[[Sequence[int]], str] | None:
    """Return the function that turns tokens into text; None without a tokenizer beside the models.

    Raises:
        DataError: the tokenizer cannot be read.
    """
    path = next((each / TOKENIZER for each in beside(folder) if (each / TOKENIZER).is_file()), None)
    if path is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError(f"{path}: needs tokenizers: pip install tokenizers") from error
    with library_errors(f"{path}: not a tokenizer", "save it again"):
        tokenizer = Tokenizer.from_file(str(path))

    def decode(tokens: Sequence[int]) -> str:
        with library_errors(f"{path}: fails on the tokens of the model", "save the tokenizer of this model"):
            return str(tokenizer.decode(list(tokens)))

    return decode


def _tables(folder: Path, name: str) -> list[Mapping[str, Any]]:
    """Return the table of a file beside the models, and those of its parts."""
    path = next((each / name for each in beside(folder) if (each / name).is_file()), None)
    if path is None:
        return []
    try:
        table = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no JSON file: save it again") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: is no table of settings: save it again")
    return [table, *(table[key] for key in ("decoder", "text_config") if isinstance(table.get(key), dict))]


def _tokens(value: Any, where: str) -> tuple[int, ...]:
    """Return a token or a list of tokens; none for null, or for negative ones, which stand for none."""
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int for token in tokens):
        raise DataError(f"{where}: {value!r} are no token ids: correct the file")
    return tuple(token for token in tokens if token >= 0)
