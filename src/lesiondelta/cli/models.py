"""`models`: which models there are, what they are, and how they travel."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.calibrate import calibrate

if TYPE_CHECKING:
    from lesiondelta.inference.model import Model

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ModelArgument = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL", help="A model folder. Default: the bundled model.", show_default=False),
]


@app.command("list")
def list_models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Folders to search for models.", show_default=False),
    ] = None,
) -> None:
    """List the bundled model and the models in folders.

    Subfolders are searched too.

    For example:

      lesiondelta models list MODELS
    """
    from rich.table import Table

    from lesiondelta.errors import ModelError
    from lesiondelta.inference.model import load_model

    table = Table("name", "method", "images", "MB", "sha256", box=None)
    table.add_column("folder", overflow="fold")
    damaged = []
    for folder in _found(folders or []):
        try:
            model = load_model(folder)
        except ModelError as error:
            damaged.append(error)
            continue
        table.add_row(
            *map(console.plain, (model.name, model.method, "+".join(model.contrasts))), f"{_megabytes(folder):.1f}",
            model.sha256[:12], console.plain(str(folder)),
        )  # fmt: skip
    console.out.print(table, highlight=False)
    for reason in damaged:
        console.print_error(reason)
    if damaged:
        raise typer.Exit(1)


@app.command()
def show(
    model: ModelArgument = None,
    card: Annotated[bool, typer.Option("--card", help="Print its model card.")] = False,
) -> None:
    """Show what a model is and how it was trained.

    For example:

      lesiondelta models show MODELS/model
    """
    from rich.table import Table

    from lesiondelta.errors import ModelError
    from lesiondelta.inference.archive import CARD
    from lesiondelta.inference.model import DESCRIPTION, bundled_model, load_model

    folder = model or bundled_model()
    loaded = load_model(folder)
    if card:
        if not (folder / CARD).is_file():
            raise ModelError(f"{folder} has no {CARD}: leave out --card to see what its {DESCRIPTION} says.")
        text = (folder / CARD).read_text(encoding="utf-8")
        shown = "".join(c for c in text if c in "\n\t" or c.isprintable())  # no control codes of the terminal
        console.out.print(shown, markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("", box=None, show_header=False)
    table.add_column(overflow="fold")
    for name, value in _facts(loaded, folder):
        table.add_row(f"[bold]{name}[/]", console.plain(value))
    console.out.print(table, highlight=False)


@app.command("export")
def export(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Zip file to write; with --nnunet a folder.", show_default=False)
    ],
    model: Annotated[
        Path | None, typer.Option(help="A model folder. Default: the bundled model.", show_default=False)
    ] = None,
    nnunet: Annotated[
        bool, typer.Option("--nnunet", help="Write an nnU-Net model folder, or for longitudinal models a LongiSeg one.")
    ] = False,
) -> None:
    """Export a model to one file or an nnU-Net folder.

    For example:

      lesiondelta models export model.zip --model MODELS/model

      lesiondelta models export FOLDER --nnunet
    """
    from lesiondelta.inference.archive import pack
    from lesiondelta.inference.model import bundled_model, load_model
    from lesiondelta.nnunet.folders import export_folder

    folder = model or bundled_model()
    written = export_folder(load_model(folder), out) if nnunet else pack(folder, out)
    console.out.print(f"Written: {written}", soft_wrap=True, markup=False)


@app.command("import")
def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Zip file that `export` wrote, or a model folder of nnU-Net or LongiSeg."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="New folder for the model.", show_default=False)
    ],
    fold: Annotated[
        str | None, typer.Option(help="Import only this fold of an nnU-Net or LongiSeg folder. Default: all folds.")
    ] = None,
    contrasts: Annotated[
        str | None,
        typer.Option(
            help="Input channels of an nnU-Net or LongiSeg model, such as FLAIR,T1w, if it does not name them."
        ),
    ] = None,
) -> None:
    """Import a model.

    Checkpoints are read without running any code in them. If the folder has several folds, each becomes a model,
    OUT/fold_K; `run --model OUT/fold_0 OUT/fold_1` averages them.

    For example:

      lesiondelta models import model.zip -o MODELS/theirs

      lesiondelta models import NNUNET_MODEL_FOLDER -o MODELS/theirs
    """
    from lesiondelta.errors import InputError, ModelError
    from lesiondelta.files import require_new
    from lesiondelta.inference.archive import unpack
    from lesiondelta.nnunet.folders import trained_folds

    if not source.exists():
        raise InputError(f"{source} does not exist.")
    if source.is_file():
        if fold is not None or contrasts is not None:
            raise InputError(
                "--fold and --contrasts belong to folders of nnU-Net and LongiSeg: leave them out for a zip."
            )
        written = [unpack(source, out)]
    else:
        folds = trained_folds(source)
        if fold is not None and fold not in folds:
            raise ModelError(f"{source} has no finished fold {fold}, but {', '.join(folds)}.")
        chosen = folds if fold is None else [fold]
        require_new(out)
        places = [out if len(chosen) == 1 else out / f"fold_{name}" for name in chosen]
        given = [name.strip() for name in contrasts.split(",")] if contrasts else None
        written = _import_all(source, dict(zip(chosen, places, strict=True)), given)
    console.out.print(f"Use it: --model {' '.join(map(str, written))}", soft_wrap=True, markup=False)


def _import_all(source: Path, places: Mapping[str, Path], contrasts: Sequence[str] | None) -> list[Path]:
    """Import folds to their places: all, or none where one is refused."""
    from lesiondelta.errors import LesionDeltaError
    from lesiondelta.nnunet.folders import import_fold

    written = []
    try:
        for fold, place in places.items():
            written.append(import_fold(source, fold, place, contrasts))
    except LesionDeltaError:
        for place in written:
            shutil.rmtree(place)
        if len(places) > 1:
            shutil.rmtree(next(iter(places.values())).parent, ignore_errors=True)
        raise
    return written


def _found(folders: Sequence[Path]) -> Iterator[Path]:
    from lesiondelta.errors import InputError
    from lesiondelta.files import files_below
    from lesiondelta.inference.model import DESCRIPTION, bundled_model

    yield bundled_model()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
        yield from (path.parent for path in files_below(folder, DESCRIPTION))


def _megabytes(folder: Path) -> float:
    from lesiondelta.inference.model import WEIGHTS

    return (folder / WEIGHTS).stat().st_size / 1e6


def _facts(model: "Model", folder: Path) -> list[tuple[str, str]]:
    described = model.description
    parameters = sum(weight.numel() for weight in model.network.parameters())
    size = " x ".join(map(str, described.patch)) if described.patch else "the whole volume"
    smaller = f"lesions under {described.min_lesion_mm3:g} mm3 are dropped"
    facts = [
        ("name", model.name), ("method", model.method), ("images", " + ".join(model.contrasts)),
        ("voxels", f"{model.spacing_mm:g} mm"), ("window", f"{size}, overlap {described.overlap:g}"),
        ("network", f"{described.network['class'].rpartition('.')[2]}, {parameters:,} parameters"),
        ("weights", f"{_megabytes(folder):.1f} MB, sha256 {model.sha256}"),
        ("lesion", f"probability over {described.threshold:g} (temperature {described.temperature:g}); {smaller}"),
        ("licence", described.licence or "not stated"), ("caution", described.caution or "none"),
        ("folder", str(folder)),
    ]  # fmt: skip
    return facts + [(f"training: {name}", str(value)) for name, value in described.training.items()]


def register(application: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(cls=console.SpacedValues)(calibrate)
    application.add_typer(app, name="models", help="List, show, calibrate, export and import models.")
