"""What commands share: the console, progress, and options that take several values."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import typer
from rich.console import Console
from typer.core import TyperCommand

from lesiondelta.cli.heartbeat import Heartbeat
from lesiondelta.errors import InputError
from lesiondelta.files import alone, logged_by, logged_to

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")

logger = logging.getLogger(__name__)
out = Console(emoji=False)  # a path may hold :up:
errors = Console(stderr=True, emoji=False)


TOGETHER = "\0"
"""Between values that belong together: no path and no argument holds it."""


class GroupedOptions(TyperCommand):
    """A command whose help lists options under the headings (`rich_help_panel`) that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  (typer's own click)
        """Write arguments and options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class SpacedValues(GroupedOptions):
    """A command whose list options take values as fMRIPrep's do: `--participant-label 01 02`.

    `together` has options whose values, so many at most, belong together: `--visit T1 FLAIR`. They arrive as one, to
    be parsed by `paths_together`.
    """

    together: ClassVar[Mapping[str, int]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (typer's own click)
        """Repeat the option before each of its values, as the parser expects them."""
        lists = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        return super().parse_args(ctx, spread(args, lists, self.together))


class VisitValues(SpacedValues):
    """`--visit` takes a T1w and a FLAIR, or one folder."""

    together: ClassVar[Mapping[str, int]] = {"--visit": 2}


def spread(args: Sequence[str], lists: set[str], together: Mapping[str, int]) -> list[str]:
    """Turn `--option a b` into `--option a --option b` for the options in `lists`, or into one value of both."""
    spread_args: list[str] = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        name, _, first = argument.partition("=")
        if name not in lists:
            spread_args.append(argument)
            continue
        values = [first] if first else []
        while rest and not rest[0].startswith("-"):
            values.append(rest.pop(0))
        if len(values) > together.get(name, len(values)) or not values:
            most = f"1 to {together[name]}" if name in together else "one or more"
            raise typer.BadParameter(f"{name} needs {most} values, not {len(values)}.")
        values = [TOGETHER.join(values)] if name in together else values
        spread_args += [item for value in values for item in (name, value)]
    return spread_args


def paths_together(text: str) -> tuple[Path, ...]:
    """The paths that `spread` left together."""
    return tuple(map(Path, text.split(TOGETHER)))


class Advance(Protocol):
    """Move a progress bar on by `step`, with other words beside it."""

    def __call__(self, description: str | None = None, step: float = 1) -> None: ...  # noqa: D102


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on the terminal; where output goes to a file, a line every half minute."""
    if not errors.is_terminal:
        heart = Heartbeat(what, total)

        def count(description: str | None = None, step: float = 1) -> None:
            heart.advance(description, step)

        with heart.beating(lambda line: errors.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)):
            yield count
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(description: str | None = None, step: float = 1) -> None:
            bar.update(task, advance=step, description=description)

        yield advance


@contextmanager
def log_lines(to: Callable[[str], None], lowest: int = logging.INFO, highest: int = logging.CRITICAL) -> Iterator[None]:
    """Show what is being done (the package's log, between two levels) through the function `to`."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno <= highest:
                to(record.getMessage())

    with logged_by(Lines(lowest)):
        yield


@contextmanager
def working_in(folder: Path, log: str) -> Iterator[None]:
    """Keep other processes out of a folder, whose file `log` tells what is done; OutputError where one is there."""
    with alone(folder, wait=False), log_file(folder / log):
        yield


def require_training() -> None:
    """Raise DependencyError where what training needs is not installed, before anything of it is imported."""
    from lesiondelta import packages

    packages.require_training()


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """The package's log also goes to a file, its warnings to the standard error, and all of it without a terminal.

    Errors are not printed: what ends a command is said once, at its end.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    lowest = logging.WARNING if errors.is_terminal else logging.INFO
    with logged_to(path), log_lines(print_warning, lowest, logging.WARNING):
        try:
            yield
        except BaseException:
            logger.exception("stopped")
            raise


def print_warning(line: str) -> None:
    """One line on the standard error."""
    errors.print(plain(line), soft_wrap=True, highlight=False)


def print_error(error: Exception) -> None:
    """One sentence on the standard error."""
    errors.print(f"[bold red]Error:[/] {plain(str(error))}", soft_wrap=True, highlight=False)


def plain(text: str) -> str:
    """Take away the meaning that square brackets have for the console."""
    return text.replace("[", r"\[")


def cores() -> int:
    """Cores this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parsed(model: type[M], content: Mapping[str, Any]) -> M:
    """Settings from options; InputError in a sentence where a value is impossible."""
    from pydantic import ValidationError

    try:
        return model.model_validate(content)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (not {e['input']!r})" for e in error.errors())
        raise InputError(f"Impossible setting: {said}.") from error
