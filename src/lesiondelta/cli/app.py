"""The application: its commands, and what an error looks like."""

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from lesiondelta import __version__
from lesiondelta.cli import compare, convert, data, demo, doctor, evaluate, models, run, segment, train
from lesiondelta.cli.console import errors, print_error
from lesiondelta.cli.options import Version
from lesiondelta.errors import LesionDeltaError

EXIT_FAILURE = 1
EXIT_FAULT = 70
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="lesiondelta",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(version: Version = False) -> None:
    """Segment multiple sclerosis lesions in brain MRI of several visits, and see what changed.

    Start with the demo. Each command has a --help of its own. For example:

      lesiondelta demo

      lesiondelta run --help
    """


demo.register(app)
run.register(app)
segment.register(app)
data.register(app)
convert.register(app)
train.register(app)
evaluate.register(app)
compare.register(app)
models.register(app)
doctor.register(app)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; errors become one sentence and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads; see docs/results/training.md
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    try:
        app(None if args is None else list(args), prog_name="lesiondelta")
    except LesionDeltaError as error:
        print_error(error)
        sys.exit(EXIT_FAILURE)
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            errors.print("Interrupted. Finished patients are kept; the same command resumes.")
        raise
    except Exception:
        errors.print(f"[bold red]A fault in lesiondelta[/], not yours. Please report it with {_save_traceback()}")
        sys.exit(EXIT_FAULT)


def _save_traceback() -> str:
    """Write it to a file, whose name is returned; where no folder takes one, the traceback itself."""
    text = f"lesiondelta {__version__}: {' '.join(sys.argv)}\n\n{traceback.format_exc()}"
    content = text.encode("utf-8", "backslashreplace")
    for place in (tempfile.gettempdir, Path.cwd, Path.home):
        try:
            with tempfile.NamedTemporaryFile(prefix="lesiondelta-", suffix=".log", delete=False, dir=place()) as file:
                file.write(content)
        except (OSError, RuntimeError):  # no such folder, no room in it, or nobody knows whose home it is
            continue
        return file.name
    return f"this:\n\n{content.decode()}"
