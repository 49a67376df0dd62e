"""Options in groups, and commands whose help shows one section per group."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

LABEL_WIDTH = 24
"""Widest column of option names in characters; help for a longer name starts on the next line."""

Command = TypeVar("Command", bound=Callable[..., Any])


class OptionGroup(StrEnum):
    """Sections of a command's help, in the order shown."""

    DATA = "Data"
    MODE = "Mode"
    TRAINING = "Training"
    ACCURACY = "Accuracy"
    SPEED = "Speed"
    WEIGHT_ONLY = "Weight-only (--mode weights)"
    OUTPUT = "Output"
    GATES = "Gates"
    METRIC = "Metric"
    GENERAL = "General"


class GroupedOption(click.Option):
    """An option with a group, and with old names that are accepted but not shown.

    group     section of the help
    aliases   old names, such as `--old-name`, that mean the same as the first name
    writes    whether it names a file to write, or lets one be overwritten
    function  whether a value may be `module:function`, which is code to run
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        group: OptionGroup,
        help: str,  # noqa: A002 (as click calls it)
        aliases: Sequence[str] = (),
        writes: bool = False,
        function: bool = False,
        **settings: Any,
    ) -> None:
        if settings.get("multiple"):
            help = f"{help.removesuffix('.')}; repeatable."  # noqa: A001
        super().__init__(names, help=help, **{"show_default": True, **settings})
        self.group, self.aliases = group, tuple(aliases)
        self.writes, self.function = writes, function

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register the names and the aliases; help and completion read `opts`, which has the names only."""
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Drop click's note of a range, such as `x>=1`: the help texts name ranges that matter."""
        return {key: value for key, value in super().get_help_extra(ctx).items() if key != "range"}


class PrintsHelp(click.Command):
    """A command whose reader may close the pipe before the help ends; click would exit with 1."""

    def make_context(self, *positional: Any, **settings: Any) -> click.Context:
        """Parse the arguments; `--help` prints here."""
        try:
            return super().make_context(*positional, **settings)
        except BrokenPipeError:
            discard_stdout()
            raise click.exceptions.Exit(0) from None


class GroupedCommand(PrintsHelp):
    """A command whose help has a section per option group and ends with examples and a page to read.

    examples  command lines, without indentation
    page      path of a page of the documentation in the repository
    """

    def __init__(
        self, *positional: Any, examples: Sequence[str] = (), page: str = "", **settings: Any
    ) -> None:
        super().__init__(*positional, **settings)
        self.examples, self.page = tuple(examples), page

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group; an option of click itself (`--help`) is general."""
        sections: dict[str, list[tuple[str, str]]] = {group: [] for group in OptionGroup}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections[getattr(parameter, "group", OptionGroup.GENERAL)].append(record)
        widths = [len(label) for records in sections.values() for label, _ in records]
        width = max((each for each in widths if each <= LABEL_WIDTH), default=0)
        for group, records in sections.items():
            if records:
                with formatter.section(group):
                    # labels of one width align the sections with one another
                    formatter.write_dl([(label.ljust(width), text) for label, text in records], LABEL_WIDTH)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the page to read."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        formatter.write(f"\nDocumentation: {self.page} in the repository\n")


def discard_stdout() -> None:
    """Send the rest of stdout to nowhere; the interpreter would fail to write it at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def option(group: OptionGroup, *names: str, **settings: Any) -> Callable[[Command], Command]:
    """Declare an option of a command; `settings` are those of `GroupedOption` and `click.option`."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)


def completing(
    names: Iterable[str] | Callable[[], Iterable[str]], *, files: bool = False
) -> Callable[..., list[CompletionItem]]:
    """Return a completion by these names for an option that takes others too.

    Args:
        names: the names, or a function that finds them on use.
        files: whether files complete the option, too.
    """

    def complete(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
        known = names() if callable(names) else names
        found = [CompletionItem(str(name)) for name in known if str(name).startswith(start)]
        if files and not (start and found):
            found.append(CompletionItem(start, type="file"))
        return found

    return complete


def registry(module: str, name: str) -> Callable[[], Iterable[str]]:
    """Return a function for the names in a registry, whose module help does not import."""
    return lambda: list(getattr(importlib.import_module(module), name))


def name_of(built_in: type[StrEnum], default: str) -> dict[str, Any]:
    """Return the settings of an option that takes any name in a registry.

    Help and completion show the built-in names. `onnxq.pipeline.quantize` checks the name: registries import
    NumPy, which help does not.
    """
    return {
        "metavar": f"[{'|'.join(built_in)}]",
        "default": str(default),
        "shell_complete": completing(built_in),
    }


def choice(default: StrEnum) -> dict[str, Any]:
    """Return the settings of an option whose values are the enum's of `default`."""
    return {"type": click.Choice([str(value) for value in type(default)]), "default": str(default)}
