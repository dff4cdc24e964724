"""`convert`: labelled datasets as their owners distribute them become BIDS, with a protocol for `compare`."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import Folds
from lesiondelta.datasets import Rater

if TYPE_CHECKING:
    from lesiondelta.datasets.finding import Found
    from lesiondelta.datasets.layouts import Dataset

SourceArgument = Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the dataset.", show_default=False)]
OutArgument = Annotated[Path, typer.Argument(metavar="BIDS", help="Folder for the BIDS dataset.", show_default=False)]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed for drawing test patients and folds. Use the same in `compare --seed`.")
]
ListOption = Annotated[
    Path | None,
    typer.Option(help="Text file with the participants to keep for testing, one per line."),
]
VisitsOption = Annotated[
    int, typer.Option(min=1, help="Leave out patients with fewer visits, except those of an official test set.")
]

convert = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@convert.callback()
def _root() -> None:
    """Convert public labelled datasets to BIDS.

    Writes images, reference masks, and the test patients and folds for `compare`.

    For example:

      lesiondelta convert ljubljana SRC BIDS

      lesiondelta convert isbi2015 SRC/training BIDS

      lesiondelta convert mslesseg "MSLesSeg Dataset" BIDS --min-visits 2

    docs/data.md says where to ask for each dataset, what its terms are, and what its folder must look like.
    """


@convert.command()
def ljubljana(
    source: SourceArgument,
    out: OutArgument,
    split_seed: SeedOption = 0,
    test_patients: Annotated[
        int | None,
        typer.Option(min=0, help="Number of patients to keep for testing. Default: 20 %, as in the paper (33 of 162)."),
    ] = None,
    test_list: ListOption = None,
    folds: Folds = 5,
    min_visits: VisitsOption = 1,
) -> None:
    """Convert the Ljubljana MS database.

    SRC is its longitudinal or its cross-sectional part, as distributed or as a BIDS dataset.

    For example:

      lesiondelta convert ljubljana SRC BIDS --split-seed 0

      lesiondelta compare BIDS --test-list BIDS/protocol/test.txt -o OUT

    Masks of lesion change go to BIDS/derivatives/change, and are never used as reference masks of lesions.
    """
    from lesiondelta.datasets.layouts import LJUBLJANA

    found = _found(LJUBLJANA, source, min_visits)
    _split_and_write(found, out, split_seed, test_patients, test_list, folds)


@convert.command()
def mslesseg(
    source: SourceArgument,
    out: OutArgument,
    split_seed: SeedOption = 0,
    test_patients: Annotated[
        int | None,
        typer.Option(min=0, help="Number of patients to draw for testing. Default: the official test set."),
    ] = None,
    test_list: ListOption = None,
    folds: Folds = 5,
    min_visits: VisitsOption = 1,
) -> None:
    """Convert MSLesSeg.

    Its training patients have up to four visits, its test patients one.

    For example:

      lesiondelta convert mslesseg "MSLesSeg Dataset" BIDS --min-visits 2

    Give --min-visits 2 for longitudinal methods, which need training patients with two visits or more.
    """
    from lesiondelta.datasets.layouts import MSLESSEG

    found = _found(MSLESSEG, source, min_visits)
    _split_and_write(found, out, split_seed, test_patients, test_list, folds)


@convert.command()
def isbi2015(
    source: SourceArgument,
    out: OutArgument,
    reference: Annotated[Rater, typer.Option(help="Which masks to use as reference masks.")] = "rater1",
) -> None:
    """Convert the data of the ISBI 2015 challenge.

    It can be an external test set with two raters. SRC is its training folder, or its test folder, which has no masks.

    For example:

      lesiondelta convert isbi2015 SRC/training ISBI

      lesiondelta compare COHORT --external ISBI -o OUT

    Both raters' masks are in ISBI/derivatives/rater1 and rater2, for `evaluate --second-rater`.
    """
    from lesiondelta.comparison.protocol import remove_protocol, write_protocol
    from lesiondelta.datasets.layouts import ISBI2015

    found = _found(ISBI2015, source)
    labels = [patient.label for patient in found.patients]

    def protocol(folder: Path) -> None:
        write_protocol(folder, (), {}, {"reference": reference}, labels)

    _write(found, out, protocol if _labelled(found) else remove_protocol, reference)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(convert, name="convert")


def _found(dataset: "Dataset", source: Path, min_visits: int = 1) -> "Found":
    from lesiondelta.datasets.finding import find
    from lesiondelta.errors import CohortError

    found = find(dataset, source)
    kept = tuple(patient for patient in found.patients if patient.test or len(patient.visits) >= min_visits)
    if not kept:
        raise CohortError(f"No patient in {source} has {min_visits} visits: lower --min-visits.")
    if left := len(found.patients) - len(kept):
        console.out.print(f"{left} patients with fewer than {min_visits} visits are left out.")
    return replace(found, patients=kept)


def _split_and_write(
    found: "Found", out: Path, seed: int, test_patients: int | None, test_list: Path | None, folds: int
) -> None:
    """Settle the split before anything is written, and write it once all is there; without masks there is none."""
    from lesiondelta.comparison.protocol import draw_test, fold_of, read_test_list, remove_protocol, write_protocol
    from lesiondelta.errors import InputError

    if not _labelled(found):
        _write(found, out, remove_protocol)
        return
    labels = [patient.label for patient in found.patients]
    owners = {patient.label for patient in found.patients if patient.test}
    if test_list and test_patients is not None:
        raise InputError("Give --test-patients or --test-list, not both.")
    if test_list:
        chosen, test = "listed", read_test_list(test_list, labels)
    elif owners and test_patients is None:
        chosen, test = "the owners'", owners
    else:
        number = round(len(labels) * found.dataset.test_share) if test_patients is None else test_patients
        chosen, test = "drawn", draw_test(labels, number, seed)
    held_out = fold_of([label for label in labels if label not in test], folds, seed)
    how: dict[str, object] = {"seed": seed, "folds": folds, "test": chosen}
    how |= {"test_patients": len(test), "training_patients": len(held_out)}
    _write(found, out, lambda folder: write_protocol(folder, test, held_out, how))
    console.out.print(f"{len(held_out)} patients are for training in {folds} folds, {len(test)} for testing.")


def _labelled(found: "Found") -> bool:
    return any(visit.masks for patient in found.patients for visit in patient.visits)


def _write(found: "Found", out: Path, protocol: Callable[[Path], None], rater: Rater = "rater1") -> None:
    """Write the dataset, with its `protocol` in the folder of that name, and say what is there."""
    from lesiondelta.datasets.conversion import convert as write_bids

    with (
        console.log_lines(console.print_warning, logging.WARNING),
        console.progress("converting", len(found.patients)) as advance,
    ):
        write_bids(found, out, rater, lambda label: advance(f"sub-{label}"), lambda: protocol(out / "protocol"))
    _say_what_is_there(found, out)


def _say_what_is_there(found: "Found", out: Path) -> None:
    from lesiondelta.inputs.bids import read_cohort

    patients = read_cohort(out).patients
    visits = [visit for patient in patients for visit in patient.visits]
    labelled = sum(bool(visit.reference) for visit in visits)
    said = [f"{len(patients)} patients with {len(visits)} visits, {labelled} with lesion masks, are in {out}"]
    if any(patient.others for patient in found.patients):
        said.append(
            "Masks of lesion change are not lesion masks: they are in derivatives/change, and never used as references."
        )
    if not labelled:
        said.append("Without lesion masks nothing can be trained or scored on them: there is no protocol.")
    for line in said:
        console.out.print(line, soft_wrap=True, markup=False, highlight=False)
