"""Calibration samples of decoders: the steps of a generation, each with its real caches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxq.data.preprocessing import Forms
from onnxq.data.sample import Sample
from onnxq.data.samples import spread
from onnxq.evaluation.generation import Decoder
from onnxq.exports.parts import Export, Part, Role
from onnxq.exports.program import Program, Source, first_half, generated_agreement, with_part
from onnxq.graph.scratch import writing_temporaries
from onnxq.runtime.npz import npz_bytes
from onnxq.runtime.progress import progress
from onnxq.types import Feeds

STEPS = 8
"""Tokens that are generated from a sample for calibration."""
FIRST_STEPS = 100
"""Most samples of a decoder of the first step alone."""
CHECKED, CHECKED_STEPS = 16, 24
"""Other samples on which the tokens of quantized decoders are compared, and tokens of each."""


@dataclass(frozen=True)
class Generations:
    """Generations of an export in float: the steps that calibrate, and others that compare.

    folders   a folder of samples for each role
    checking  sources that were not used for calibration, where the data has so many
    """

    export: Export
    forms: Forms
    folders: Mapping[Role, Path]
    checking: Sequence[Sample]
    _wanted: dict[Role, tuple[list[Source], list[list[int]]]] = field(default_factory=dict)

    def route_of(self, part: Part) -> tuple[Part, ...]:
        """Return the route in which a part stands."""
        return next(route for route in self.export.routes if any(each.role is part.role for each in route))

    def agreement(self, part: Part, path: Path) -> float:
        """Return the share of steps in which a file in place of a part gives the float model's token.

        Raises:
            OnnxqError: a model fails.
        """
        route = self.route_of(part)
        if route[0].role not in self._wanted:
            program = Program.of(self.export, route, self.forms)
            sources = [first_half(program.source(sample)) for sample in self.checking]
            self._wanted[route[0].role] = (
                sources,
                [
                    program.generator.generate(source.prompt, CHECKED_STEPS, context=source.context).tokens
                    for source in progress(sources, desc="generating", unit="sample")
                ],
            )
        program = Program.of(self.export, with_part(route, part, path), self.forms)
        return generated_agreement(program, *self._wanted[route[0].role])


def store_steps(export: Export, data: Path, forms: Forms, folder: Path, most: int) -> Generations:
    """Generate from samples in float, and store the feeds of each step of each decoder.

    Steps of decoders with a cache lie in a folder for each sample, as sequences.

    Args:
        export: models of a folder, with at least one route.
        data: texts, images or sounds.
        forms: the preprocessing.
        folder: folder to fill.
        most: most steps of each decoder.

    Raises:
        OnnxqError: the data does not fit, or a model fails.
    """
    folders: dict[Role, Path] = {}
    checking: list[Sample] = []
    for route in export.routes:
        program = Program.of(export, route, forms)
        samples = program.samples(data, None)
        long = {sample.name for sample in spread(samples, max(1, most // STEPS))}
        alone = route[0].role is Role.FIRST
        short = {sample.name for sample in spread(samples, min(most, FIRST_STEPS))} if alone else set()
        chosen = [sample for sample in samples if sample.name in long | short]
        others = [sample for sample in samples if sample.name not in long | short]
        checking = spread(others or samples, CHECKED)
        decoders = (program.generator.first, program.generator.following)
        for number, sample in enumerate(progress(chosen, desc="generating", unit="sample")):
            source, steps = first_half(program.source(sample)), _Steps(decoders)
            count = STEPS if sample.name in long else 1
            program.generator.generate(source.prompt, count, context=source.context, seen=steps.add)
            for part, feeds in zip(route, steps.feeds, strict=False):
                folders[part.role] = folder / part.role.name
                _store(feeds, folders[part.role], number, alone=part.role is Role.FIRST)
    return Generations(export, forms, folders, checking)


@dataclass(frozen=True)
class _Steps:
    """Feeds of the first decoder, and of the following one where that is another."""

    decoders: tuple[Decoder, Decoder]
    feeds: tuple[list[Feeds], list[Feeds]] = field(default_factory=lambda: ([], []))

    def add(self, decoder: Decoder, feeds: Feeds) -> None:
        """Keep the feeds of a step."""
        self.feeds[0 if decoder is self.decoders[0] else 1].append(feeds)


def _store(steps: Sequence[Feeds], folder: Path, number: int, *, alone: bool) -> None:
    with writing_temporaries():
        for position, feeds in enumerate(steps):
            path = folder / f"{number:04d}.npz" if alone else folder / f"{number:04d}" / f"{position:04d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(npz_bytes(feeds))
