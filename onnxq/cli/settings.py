"""`onnxq init` and `onnxq preview`."""

from pathlib import Path
from typing import Any

import click

from onnxq.cli.console import Console, say, with_console
from onnxq.cli.groups import GroupedCommand, OptionGroup, option
from onnxq.cli.interrupts import loading_modules
from onnxq.cli.shared_options import force_option, preprocess_option
from onnxq.cli.values import COUNT, FILE, REPORT
from onnxq.errors import OnnxqError


@click.command(
    "init",
    cls=GroupedCommand,
    examples=["onnxq init model.onnx photos/", "onnxq preview model.onnx photos/ -o sheet.png"],
    page="docs/data.md",
)
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=REPORT,
    default=Path("onnxq.toml"),
    writes=True,
    metavar="FILE",
    help="Write the settings to this file.",
)
@force_option
@with_console
def init(console: Console, model: Path, data: Path, output: Path, force: bool) -> None:
    """Write an onnxq.toml for MODEL and DATA: how a file becomes an input, with comments.

    What the model and the data do not say is marked as undecided: check it with onnxq preview.
    """
    with loading_modules():
        from onnxq.evaluation.preprocessing_guess import guess_preprocessing
        from onnxq.graph.files import check_target, staged
        from onnxq.report.settings_file import settings_file

    check_target(output, [model, data], force=force)
    found = guess_preprocessing(model, data)
    content = settings_file(found, model, data)
    with staged(output, force=force) as building:
        building.write_bytes(content)
    console.warn(f"{key} is undecided: {text}" for key, text in found.undecided.items())
    summary = {
        "output": str(output),
        "kind": found.kind,
        "reasons": dict(found.reasons),
        "undecided": dict(found.undecided),
    }
    console.show(summary, lambda: f"wrote {output}; next: onnxq preview {model} {data}")


@click.command(
    cls=GroupedCommand,
    examples=["onnxq preview model.onnx photos/ --preprocess imagenet -o sheet.png"],
    page="docs/data.md",
)
@click.argument("model", type=FILE)
@click.argument("data", type=FILE)
@option(
    OptionGroup.DATA, "--samples", type=COUNT, default=12, metavar="N", help="Show N samples, evenly spaced."
)
@preprocess_option
@option(
    OptionGroup.OUTPUT,
    "-o",
    "--output",
    type=REPORT,
    writes=True,
    metavar="FILE.png",
    help="Also write the images as the model gets them, with its answers, on one sheet.",
)
@force_option
@with_console
def preview(
    console: Console, model: Path, data: Path, output: Path | None, force: bool, **options: Any
) -> None:
    """Show what MODEL gets for a few samples of DATA, and what it answers.

    Wrong preprocessing shows at once: in the ranges, in the images and in the answers.
    """
    with loading_modules():
        from onnxq.evaluation.preview import preview as run
        from onnxq.graph.files import check_target, staged
        from onnxq.report.preview import contact_sheet, preview_text

    if output is not None and output.suffix.lower() != ".png":
        raise OnnxqError(f"{output}: the sheet is a PNG: choose a name that ends in .png")
    if output is not None:
        check_target(output, [model, data], force=force, report=True)
    report, feeds, forms = run(model, data, **options)
    console.warn(report.warnings)
    if output is not None:
        content = contact_sheet(report, feeds, forms)
        with staged(output, force=force) as building:
            building.write_bytes(content)
        if not console.quiet:
            say(f"wrote {output}")
    console.show(report, lambda: preview_text(report))
