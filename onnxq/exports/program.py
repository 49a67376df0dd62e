"""An export opened to generate: from a text, an image or a sound to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxq.data.preprocessing import Forms
from onnxq.data.sample import Sample
from onnxq.data.samples import check_feeds, open_samples
from onnxq.errors import DataError
from onnxq.evaluation.generation import HIDDEN, HIDDEN_MASK, Decoder, Generator
from onnxq.exports.parts import Export, Part
from onnxq.exports.settings import generation_settings
from onnxq.runtime.sessions import open_session, run
from onnxq.types import Feeds


@dataclass(frozen=True)
class Source:
    """What a generation starts from: tokens, and what the encoder gave, by the decoder's inputs."""

    name: str
    prompt: list[int]
    context: Feeds
    label: str | None = None


@dataclass(frozen=True)
class Program:
    """An encoder, if there is one, and the decoders of one route.

    entry    the part that takes samples
    route    the decoders
    encoder  open encoder; None without one
    start    tokens with which the decoder of an encoder begins
    """

    folder: Path
    entry: Part
    route: tuple[Part, ...]
    forms: Forms
    generator: Generator
    encoder: ort.InferenceSession | None
    start: tuple[int, ...]

    @staticmethod
    def of(export: Export, route: tuple[Part, ...], forms: Forms, threads: int = 0) -> "Program":
        """Open the models of an export.

        Args:
            export: the folder.
            route: decoders to use, one of the export's or one in which other files stand in.
            forms: preprocessing.
            threads: intra-op threads; 0 for the runtime's choice.

        Raises:
            OnnxqError: a model or the settings beside it cannot be used.
        """
        settings = generation_settings(export.folder)
        decoders = [Decoder(open_session(part.path, threads=threads), forms.text) for part in route]
        crossing = HIDDEN in decoders[0].specs
        if crossing and export.encoder is None:
            raise DataError(
                f"{route[0].path}: takes '{HIDDEN}', but no encoder lies beside it: export the folder again"
            )
        encoder = export.encoder if crossing else None
        if encoder is not None and not settings.start:
            raise DataError(
                f"{export.folder}: no file says with which token the decoder begins: put the exporter's "
                "generation_config.json there"
            )
        return Program(
            export.folder,
            encoder or route[0],
            route,
            forms,
            Generator(decoders[0], decoders[-1], settings.rules),
            None if encoder is None else open_session(encoder.path, threads=threads),
            settings.start,
        )

    def samples(self, data: Path, most: int | None) -> list[Sample]:
        """Open texts, images or sounds.

        Raises:
            DataError: they cannot be used.
        """
        return open_samples(data, self.entry.specs, self.forms, most, self.entry.path)

    def source(self, sample: Sample) -> Source:
        """Prepare a sample: run the encoder, or take the sample's tokens.

        Raises:
            OnnxqError: the sample does not fit.
        """
        if self.encoder is None:
            tokens = sample.load().get(self.forms.text.ids)
            if tokens is None or not np.size(tokens):
                raise DataError(
                    f"sample {sample.name}: has no '{self.forms.text.ids}' of at least one token: give texts"
                )
            prompt = np.asarray(tokens).reshape(-1).tolist()
            if len(prompt) > 1 and prompt[-1] in self.generator.rules.end:
                prompt.pop()  # the tokenizer ends each text, which here goes on
            return Source(sample.name, prompt, {}, sample.label)
        feeds = check_feeds(sample, self.entry.specs)
        hidden = run(self.encoder, feeds, sample.name)[0]
        mask = feeds.get(self.forms.text.mask, np.ones(hidden.shape[:2], np.int64))
        return Source(sample.name, list(self.start), {HIDDEN: hidden, HIDDEN_MASK: mask}, sample.label)


def with_part(route: tuple[Part, ...], part: Part, path: Path) -> tuple[Part, ...]:
    """Return a route in which another file stands in for a part."""
    return tuple(replace(each, path=path) if each.role is part.role else each for each in route)


def first_half(source: Source) -> Source:
    """Return the first half of a text as a prompt; a source with an encoder stays."""
    if source.context:
        return source
    return replace(source, prompt=source.prompt[: max(1, len(source.prompt) // 2)])


def generated_agreement(program: Program, sources: Sequence[Source], wanted: Sequence[list[int]]) -> float:
    """Return the share of steps, 0..1, in which a program chooses the tokens that the float one chose."""
    same = total = 0
    for source, tokens in zip(sources, wanted, strict=True):
        found = program.generator.generate(
            source.prompt, len(tokens), context=source.context, forced=tokens
        ).tokens
        same += sum(a == b for a, b in zip(found, tokens, strict=True))
        total += len(tokens)
    return same / max(1, total)
