"""`simulate`: a labelled longitudinal cohort from nothing."""

from pathlib import Path
from typing import Annotated

import typer

from lesiondelta.cli import console


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the BIDS dataset.", show_default=False)],
    patients: Annotated[int, typer.Option(min=1, help="Number of patients.")] = 8,
    visits: Annotated[int, typer.Option(min=1, help="Number of visits of each patient.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same cohort.")] = 0,
    stripped: Annotated[bool, typer.Option("--stripped", help="Simulate skull-stripped images.")] = False,
    scanner: Annotated[
        int | None,
        typer.Option(min=0, help="Use the scanner and protocol of this number for all visits. Default: random."),
    ] = None,
    anatomy: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real people to simulate from, as NIfTI: NAME_T1w and NAME_FLAIR, both skull-stripped, and "
            "NAME_*_mask with their lesions, on one grid of cubic voxels. Default: the MNI152 atlas.",
        ),
    ] = None,
    lesion_masks: Annotated[
        Path | None,
        typer.Option(help="Folder of real lesion masks (*_mask) in MNI152 space, for shapes and places."),
    ] = None,
) -> None:
    """Simulate a labelled cohort with lesions that change.

    For example:

      lesiondelta simulate COHORT --patients 8 --visits 3 --seed 0

      lesiondelta simulate SITE2 --patients 6 --seed 1 --scanner 2

      lesiondelta simulate COHORT --anatomy PEOPLE --lesion-masks MASKS

    Lesions appear, grow, shrink and vanish from visit to visit. The result is a BIDS dataset for `run`, `train` and
    `compare`, with reference masks in derivatives/reference.
    """
    from lesiondelta.simulation import Acquisition, CohortPlan, find_lesion_masks, find_people, write_cohort

    people = find_people(anatomy) if anatomy else ()
    masks = find_lesion_masks(lesion_masks) if lesion_masks else ()
    acquisition = Acquisition(mode="native", whole_head=not stripped, scanner=scanner)
    with console.progress("simulating", patients) as advance:
        plan = CohortPlan(patients, visits, seed, acquisition, people, masks)
        write_cohort(out, plan, lambda done, of: advance(f"{done} of {of} patients"))
    console.out.print(f"{patients} patients with {visits} visits are in {out}", soft_wrap=True, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(simulate)
