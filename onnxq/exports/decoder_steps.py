"""Samples of a decoder with a key-value cache: the steps of a generation, each with its real cache."""

from collections.abc import Sequence
from pathlib import Path

from onnxq.data.preprocessing import Forms
from onnxq.data.sample import Sample
from onnxq.data.text import is_state
from onnxq.evaluation.generation import Generator
from onnxq.graph.scratch import writing_temporaries
from onnxq.runtime.npz import npz_bytes
from onnxq.runtime.sessions import InputSpec, open_session
from onnxq.types import Feeds

PROMPT_SHARE = 2
"""One half of a text is the prompt."""
STEPS = 8
"""Tokens that are generated after each prompt."""


def takes_cache(specs: Sequence[InputSpec], forms: Forms) -> bool:
    """Tell whether a model is a decoder with a cache that generates from token ids alone."""
    names = {spec.name for spec in specs}
    own = {forms.text.ids, forms.text.mask, forms.text.types, forms.text.positions}
    states = {name for name in names if is_state(name, forms.text)}
    return bool(states) and forms.text.ids in names and names <= own | states


def store_steps(model: Path, texts: Sequence[Sample], forms: Forms, folder: Path, most: int) -> None:
    """Generate after the beginning of each text, and store each step's feeds: a folder a text.

    Args:
        model: decoder of `takes_cache`.
        texts: samples of the text reader, each with the ids of a text.
        forms: the preprocessing.
        folder: folder to fill.
        most: most steps in all.

    Raises:
        OnnxqError: the model's outputs do not follow its caches, or it fails.
    """
    generator = Generator(open_session(model), forms.text)
    for number, text in enumerate(texts[: max(1, most // STEPS)]):
        ids = text.load()[forms.text.ids][0].tolist()
        steps: list[Feeds] = []
        generator.generate(ids[: max(1, len(ids) // PROMPT_SHARE)], STEPS, steps.append)
        with writing_temporaries():
            (folder / f"{number:04d}").mkdir()
            for position, feeds in enumerate(steps):
                (folder / f"{number:04d}" / f"{position:04d}.npz").write_bytes(npz_bytes(feeds))
