"""`models calibrate`: a model's operating point, chosen on labelled patients."""

import logging
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lesiondelta.cli import console
from lesiondelta.cli.options import (
    Device,
    Given,
    LabelledCohort,
    Participants,
    Processes,
    Threads,
    WorkDir,
    preprocessing_of,
    takes_settings,
)

if TYPE_CHECKING:
    from lesiondelta.cohort import Cohort
    from lesiondelta.evaluation.calibration import Calibration
    from lesiondelta.nnunet.training_patients import TrainingPatient
    from lesiondelta.settings import PreprocessingSettings


@takes_settings("preprocessing")
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder.", show_default=False)],
    cohort: LabelledCohort,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="New folder for the model.")],
    *,
    participant_label: Participants = None,
    same_labels: Annotated[
        bool,
        typer.Option("--same-labels", help="Accept labels that training patients had: here they are other people."),
    ] = False,
    work_dir: WorkDir = None,
    given: Given,
    device: Device = "auto",
    nprocs: Processes = 1,
    omp_nthreads: Threads = None,
) -> None:
    """Calibrate a model on labelled patients.

    For example:

      lesiondelta models calibrate MODELS/model COHORT -o MODELS/calibrated

    This chooses the temperature, which makes the model's probabilities match the frequency of lesion voxels, and then
    the threshold and smallest lesion with the best sum of Dice and lesion F1, averaged by patient. Give patients that
    the model was not trained on.

    The weights do not change. OUT/model.json records the choice, the patients, and the scores before and after. Give
    the --work-dir of `train` to reuse its preprocessed images.
    """
    from lesiondelta.comparison.calibration import calibrate_model, load_one, trained_on, write_calibrated
    from lesiondelta.errors import CohortError
    from lesiondelta.files import TEMPORARY, require_new, require_writable, room_for_temporary_files
    from lesiondelta.inputs.bids import read_cohort

    require_new(out)
    loaded, labelled = load_one(model), read_cohort(cohort, participant_label)
    if not same_labels and (members := trained_on(loaded, [patient.label for patient in labelled.patients])):
        raise CohortError(
            f"{model} was trained on patients labelled {', '.join(members)}: choose others with --participant-label, "
            "or give --same-labels if they are other people."
        )
    if "train" not in loaded.description.training:
        console.print_warning(
            f"{model} does not list its training patients: if they are in {cohort}, the choice and its scores are too "
            "optimistic."
        )
    require_writable(out.parent)
    threads = omp_nthreads or console.cores()
    settings = preprocessing_of(given, threads // nprocs).model_copy(update={"spacing_mm": loaded.spacing_mm})
    kept = nullcontext(work_dir) if work_dir else tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out.parent)
    with room_for_temporary_files(out), kept as work:
        patients = _prepared(labelled, Path(work) / "prepared", settings, nprocs)
        with console.progress("segmenting", len(patients) + 1) as advance:
            result = calibrate_model(loaded, patients, device, threads, advance)
        write_calibrated(model, out, result, patients)
    _print_calibration(result, len(patients))
    console.out.print(f"Use it: --model {out}", soft_wrap=True, markup=False)


def _prepared(
    labelled: "Cohort", work: Path, settings: "PreprocessingSettings", nprocs: int
) -> "list[TrainingPatient]":
    from lesiondelta.nnunet.preparation import prepare_training
    from lesiondelta.preprocessing.preparation import require_programs

    require_programs(settings)
    with (
        console.log_lines(console.print_warning, logging.WARNING, logging.WARNING),
        console.progress("preparing patients", len(labelled.patients)) as advance,
    ):
        return prepare_training(labelled, work, settings, nprocs, lambda label: advance(f"sub-{label}"))


def _print_calibration(result: "Calibration", patients: int) -> None:
    from rich.table import Table

    from lesiondelta.evaluation.calibration import mean_agreement

    table = Table("", "temperature", "threshold", "smallest lesion (mm3)", "DSC", "lesion F1", box=None)
    for name, point, found in (("before", result.present, result.before), ("chosen", result.point, result.after)):
        mean = mean_agreement(found.values())
        figures = (f"{point.temperature:g}", f"{point.threshold:g}", f"{point.min_lesion_mm3:g}")
        table.add_row(name, *figures, f"{mean.dsc:.3f}", f"{mean.lesion_f1:.3f}")
    console.out.print(table)
    note = "the same patients chose and scored, so that new patients will score lower"
    few = " Two patients or more are needed for a choice that holds for others." if patients < 2 else ""
    console.out.print(f"Means over {patients} patient{'s' * (patients != 1)}; {note}.{few}", soft_wrap=True)
