"""The way of one patient: check, prepare, segment, follow, judge, write."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lesiondelta import records
from lesiondelta.cohort import Patient, visit_name
from lesiondelta.errors import LesionDeltaError, NoVisitError
from lesiondelta.files import logged_to
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.inputs.checks import CheckedPatient, check_patient, log_choices
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.corrections import corrections_now, removed_masks, take_all_edits
from lesiondelta.pipeline.failures import failed_results, reason_of, record_failure
from lesiondelta.pipeline.fingerprint import fingerprint_of
from lesiondelta.pipeline.group import TABLE, write_group
from lesiondelta.pipeline.judgement import JudgedPatient, judge
from lesiondelta.pipeline.rebuild import rebuild
from lesiondelta.pipeline.segmented import SegmentedPatient, provenance_of, write_automatic
from lesiondelta.pipeline.tracked import follow
from lesiondelta.pipeline.writing import finish, possible_files, visit_files_of, write_results
from lesiondelta.preprocessing.preparation import PreparedPatient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.records import Fingerprint, MaskHashes, Record, VisitResult
from lesiondelta.settings import Settings

log = logging.getLogger(__name__)

Results = tuple[VisitResult, ...]


@dataclass(frozen=True)
class RunPlan:
    """What all patients of one run share; it travels to the worker processes.

    `raw` is the dataset that the images belong to, `work` keeps prepared images for another run.
    """

    out: Path
    raw: Path | None
    settings: Settings
    work: Path | None = None


def run_patient(patient: Patient, plan: RunPlan, segmenter: Segmenter) -> Results:
    """Segment every visit of a patient, write the results, and say what became of each visit.

    This is the border of one patient's run: whatever goes wrong is logged and becomes status `failed`. So is a patient
    whom another run is working on: this one cannot say how that ends, and touches nothing.
    """
    files = PatientFiles(plan.out, patient.label)
    try:
        with logged_to(files.log), records.only_run(plan.out, patient.label):
            try:
                run = PatientRun.begun(files, patient, plan, segmenter)
                finished = run.finished_results()
            except Exception as error:  # such as a corrected mask that is of no use: what lies there stays untouched
                return failed_results(patient, reason_of(error, files))
            return run.results() if finished is None else finished
    except LesionDeltaError as error:  # the log itself cannot be written, or another run is at it
        return failed_results(patient, str(error))


@dataclass(frozen=True, eq=False)
class PatientRun:
    """One patient's run: who, how, and what an earlier run has left.

    `masks` has the hashes of masks as they were found; what a reader had edited is kept as a correction by then.
    """

    files: PatientFiles
    patient: Patient
    plan: RunPlan
    segmenter: Segmenter
    fingerprint: Fingerprint
    earlier: Record | None
    masks: MaskHashes

    @classmethod
    def begun(cls, files: PatientFiles, patient: Patient, plan: RunPlan, segmenter: Segmenter) -> "PatientRun":
        """See what is there; raises LesionDeltaError where a reader's edit cannot be used."""
        earlier = records.read_record(files.out, files.patient)
        masks = take_all_edits(files, earlier, [visit.label for visit in patient.visits])
        return cls(files, patient, plan, segmenter, fingerprint_of(patient, plan.settings, segmenter), earlier, masks)

    def finished_results(self) -> Results | None:
        """The results of a run that is finished, with what has been corrected since; None where there is none."""
        if self.earlier is None or not self.earlier.is_done(self.files.out, self.fingerprint):
            return None
        log.info("sub-%s is finished: input, settings and model are the same", self.files.patient)
        if corrections_now(self.files, self.earlier.segmented_visits) == self.earlier.corrections:
            return self.earlier.results
        log.warning("sub-%s: masks have been corrected by hand since: tables and report follow", self.files.patient)
        return rebuild(self.files, self.earlier)

    def results(self) -> Results:
        """The way from images to results. Where it ends early, a visit's own reason is told if it is known."""
        failures: Mapping[str, str] = self.patient.problems
        try:
            self.begin()
            checked = self.check()
            failures = checked.problems
            prepared = self.prepare(checked)
            failures = {**checked.problems, **prepared.failures}
            segmented = self.segment(checked, prepared)
            tracked = follow(self.files, segmented, self.fingerprint, self.masks)
            judged = judge(tracked)
            return self.write(judged)
        except Exception as error:
            own = error.failures if isinstance(error, NoVisitError) else {}
            return self.fail(reason_of(error, self.files), {**failures, **own})

    def begin(self) -> None:
        """Record what this run is going to write, and clear what an earlier one has written."""
        self._warn_of_replaced()
        old = self.earlier.files if self.earlier else ()
        new = possible_files(self.files, [visit.label for visit in self.patient.visits], self.segmenter.contrasts)
        names = tuple(sorted({*old, *self.files.relative(new)}))
        masks = {**self.masks, **removed_masks(names)}
        cleared = [*(self.files.out / name for name in old), self.files.visit_table]
        records.begin(self.files.out, Record(self.files.patient, False, self.fingerprint, names, masks=masks), cleared)
        if (self.files.out / TABLE).is_file():  # nothing is left of what it says of this patient
            write_group(self.files.out)
        log_choices(self.patient)

    def check(self) -> CheckedPatient:
        """Read every image, once."""
        checked = check_patient(self.patient, self.segmenter.contrasts, self.fingerprint.visits)
        self.segmenter.check(checked)
        return checked

    def prepare(self, checked: CheckedPatient) -> PreparedPatient:
        """Bring all visits, and the atlas, into one space."""
        settings = self.plan.settings.preprocessing
        return prepared_patient(checked, settings, self.segmenter.contrasts, self.plan.work, atlas=True)

    def segment(self, checked: CheckedPatient, prepared: PreparedPatient) -> SegmentedPatient:
        """Segment all visits, and write the automatic masks."""
        log_file = self.files.log.with_name(f"sub-{self.files.patient}_{self.segmenter.method}.log")
        visits = tuple(self.segmenter.segment(checked, prepared, log_file))
        provenance = provenance_of(self.patient, checked, prepared, self.plan.settings, self.segmenter)
        segmented = SegmentedPatient(prepared, visits, provenance)
        write_automatic(self.files, segmented, self.segmenter, self.patient, self.plan.raw)
        return segmented

    def write(self, judged: JudgedPatient) -> Results:
        """Write tables, maps, pictures and the report, and record that all is done."""
        written = write_results(self.files, judged)
        automatic = visit_files_of(self.files, judged.tracked.segmented.visits, self.segmenter.contrasts)
        return finish(self.files, self.fingerprint, judged, [*written, *automatic])

    def fail(self, reason: str, failures: Mapping[str, str]) -> Results:
        """Remove the masks of a failed patient; what a reader has saved meanwhile is kept."""
        results = failed_results(replace(self.patient, problems=failures), reason)
        with suppress(LesionDeltaError):
            labels = [visit.label for visit in self.patient.visits]
            take_all_edits(self.files, records.read_record(self.files.out, self.files.patient), labels)
        record_failure(self.files, results)
        return results

    def _warn_of_replaced(self) -> None:
        """A visit is segmented with its prior: a run over other visits replaces the patient's results as a whole."""
        asked = {*(visit.label for visit in self.patient.visits), *self.patient.problems}
        if replaced := set(self.earlier.segmented_visits if self.earlier else ()) - asked:
            names = ", ".join(visit_name(label) for label in sorted(replaced))
            log.warning(
                "sub-%s: earlier results of %s are removed, this run is without them", self.files.patient, names
            )
