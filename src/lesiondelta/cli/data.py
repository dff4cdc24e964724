"""`simulate`: a labelled longitudinal cohort from nothing."""

from pathlib import Path
from typing import Annotated

import typer

from lesiondelta.cli import console


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the BIDS dataset.", show_default=False)],
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 8,
    visits: Annotated[int, typer.Option(min=1, help="Visits of each.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cohort.")] = 0,
    stripped: Annotated[bool, typer.Option("--stripped", help="Brains alone, without skull and scalp.")] = False,
    scanner: Annotated[
        int | None, typer.Option(min=0, help="One scanner and protocol for all, of this number. Default: many.")
    ] = None,
    anatomy: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real people to simulate from: NAME_T1w, NAME_FLAIR, NAME_..._mask of lesions, stripped, "
            "on one grid of cubic voxels. Default: the MNI152 atlas.",
        ),
    ] = None,
    lesion_masks: Annotated[
        Path | None,
        typer.Option(help="Folder of real ..._mask files in MNI152 space, for shapes and places. Default: drawn."),
    ] = None,
) -> None:
    """Simulate patients with lesions that appear, grow, shrink and vanish, with reference masks.

    [dim]Example[/]

      lesiondelta simulate COHORT --patients 8 --visits 3 --seed 0

      lesiondelta simulate SITE2 --patients 6 --seed 1 --scanner 2

      lesiondelta simulate COHORT --anatomy PEOPLE --lesion-masks MASKS

    The dataset can be given to `run`, `train` and `evaluate`; the references are in COHORT/derivatives/reference.
    """
    from lesiondelta.simulation import Acquisition, find_lesion_masks, find_people, write_cohort

    people = find_people(anatomy) if anatomy else ()
    masks = find_lesion_masks(lesion_masks) if lesion_masks else ()
    acquisition = Acquisition(mode="native", whole_head=not stripped, scanner=scanner)
    with console.progress("simulating", patients) as advance:
        write_cohort(
            out, patients, visits, seed, acquisition=acquisition, people=people, lesion_masks=masks,
            progress=lambda done, of: advance(f"{done} of {of} patients"),
        )  # fmt: skip
    console.out.print(f"{patients} patients with {visits} visits are in {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(simulate)
