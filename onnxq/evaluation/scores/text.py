"""Text recognition: exact matches and character error rate (CER)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from onnxq.data.python_functions import import_function
from onnxq.errors import DataError, first_line
from onnxq.evaluation.scores.score import Case, Score, ScoreOptions, mean, pick


def text(options: ScoreOptions) -> list[Score]:
    """Make exact matches and CER; a decoder or a charset (CTC) turns outputs into text.

    Raises:
        DataError: Both are missing, or the charset cannot be read.
    """
    read = _reader(options)

    def both(case: Case) -> tuple[str, str] | None:
        return None if case.label is None else _compared(read(case), case.label, options)

    def exact(case: Case) -> list[float] | None:
        pair = both(case)
        return None if pair is None else [float(pair[0] == pair[1])]

    def edits(case: Case) -> list[float] | None:
        pair = both(case)
        return None if pair is None else [distance(*pair), len(pair[1])]

    cer = Score("CER", edits, lambda rows: float(rows[:, 0].sum() / max(1.0, rows[:, 1].sum())), higher=False)
    return [Score("exact", exact, mean, answer=_answer(read, options)), cer]


def text_agreement(options: ScoreOptions) -> list[Score]:
    """Make exact matches and CER between the texts of a model and of the float model."""
    read = _reader(options)

    def both(case: Case) -> tuple[str, str]:
        return _compared(read(case), read(case.of_float()), options)

    def same(case: Case) -> list[float]:
        found, wanted = both(case)
        return [float(found == wanted)]

    def edits(case: Case) -> list[float]:
        found, wanted = both(case)
        return [distance(found, wanted), len(wanted)]

    total = Score(
        "CER to float", edits, lambda rows: float(rows[:, 0].sum() / max(1.0, rows[:, 1].sum())), higher=False
    )
    return [Score("same lines", same, mean, answer=_answer(read, options)), total]


def _answer(read: Callable[[Case], str], options: ScoreOptions) -> Callable[[Case], str]:
    """Return how reports show a text: without spaces at its ends, where these do not count."""
    return (lambda case: read(case).strip()) if options.ignore_spaces else read


def _compared(found: str, wanted: str, options: ScoreOptions) -> tuple[str, str]:
    """Return two texts as they are compared."""
    return (found.replace(" ", ""), wanted.replace(" ", "")) if options.ignore_spaces else (found, wanted)


def _reader(options: ScoreOptions) -> Callable[[Case], str]:
    if options.decoder is not None:
        decoder = import_function(options.decoder)

        def decode(case: Case) -> str:
            try:
                return str(decoder(case.outputs))
            except (Exception, SystemExit) as error:  # the user's function may raise anything
                raise DataError(
                    f"sample {case.name}: {options.decoder} raised {type(error).__name__}: "
                    f"{first_line(error)}"
                ) from error

        return decode
    if options.charset is None:
        raise DataError(
            "--metric text cannot decode outputs: give --charset FILE (CTC) or --decoder module:function"
        )
    charset = _read_charset(options.charset)
    return lambda case: _ctc(case, charset, options)


def _read_charset(path: Path) -> list[str]:
    """Read characters by class index: the CTC blank, the lines of the file, and a space."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the charset: {error}: give a UTF-8 file") from error
    return ["", *(lines[:-1] if lines[-1] == "" else lines), " "]


def _ctc(case: Case, charset: list[str], options: ScoreOptions) -> str:
    """Decode [1, steps, classes] greedily: merge repeats and drop the blank, class 0."""
    scores = pick(case, options)
    if scores.ndim != 3 or not len(charset) - 1 <= scores.shape[2] <= len(charset):
        raise DataError(
            f"--charset has {len(charset) - 2} characters, but the output is {list(scores.shape)}, expected "
            "[1, steps, characters + 1 or 2]: choose another --charset or --output"
        )
    best = scores[0].argmax(1).tolist()
    return "".join(
        charset[now] for before, now in zip([0, *best], best, strict=False) if now not in (0, before)
    )


def distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Compute the Levenshtein distance of texts or words: insertions, deletions and replacements."""
    row = list(range(len(wanted) + 1))
    for i, have in enumerate(found, start=1):
        before, row[0] = row[0], i
        for j, want in enumerate(wanted, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (have != want))
    return row[-1]
