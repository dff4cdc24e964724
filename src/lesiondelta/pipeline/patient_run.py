"""The way of one patient: check, prepare, segment, follow, judge, write."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lesiondelta import records, timings
from lesiondelta.cohort import Patient
from lesiondelta.errors import LesionDeltaError, NoVisitError
from lesiondelta.files import logged_to
from lesiondelta.inference.segmenter import Segmenter
from lesiondelta.inputs.checks import CheckedPatient, check_patient
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.earlier import EarlierRun
from lesiondelta.pipeline.failures import failed_results, reason_of, record_failure
from lesiondelta.pipeline.fingerprint import fingerprint_of
from lesiondelta.pipeline.judgement import JudgedPatient, judge
from lesiondelta.pipeline.segmented import SegmentedPatient, provenance_of, write_automatic
from lesiondelta.pipeline.tracked import follow
from lesiondelta.pipeline.writing import finish, visit_files_of, write_results
from lesiondelta.preprocessing.preparation import PreparedPatient
from lesiondelta.preprocessing.store import prepared_patient
from lesiondelta.processes import scheduler_job
from lesiondelta.records import Fingerprint, VisitResult
from lesiondelta.settings import Settings

log = logging.getLogger(__name__)

Results = tuple[VisitResult, ...]


@dataclass(frozen=True)
class RunPlan:
    """What all patients of one run share; it travels to the worker processes.

    `raw` is the dataset that the images belong to, `work` keeps prepared images for another run; `cautions` are the
    segmenter's, once it is known.
    """

    out: Path
    raw: Path | None
    settings: Settings
    work: Path | None = None
    cautions: tuple[str, ...] = ()


def run_patient(patient: Patient, plan: RunPlan, segmenter: Segmenter) -> Results:
    """Segment every visit of a patient, write the results, and say what became of each visit.

    This is the border of one patient's run: whatever goes wrong is logged and becomes status `failed`. So is a patient
    whom another run is working on: this one cannot say how that ends, and touches nothing.
    """
    files = PatientFiles(plan.out, patient.label)
    try:
        with logged_to(files.log), records.only_run(plan.out, patient.label):
            if job := scheduler_job():
                log.info("sub-%s: job %s", patient.label, job)
            try:
                earlier = EarlierRun.found(files, patient)
                with timings.recorded() as spent:
                    fingerprint = fingerprint_of(patient, plan.settings, segmenter)
                finished = earlier.finished_results(fingerprint)
            except Exception as error:  # such as a corrected mask that is of no use: what lies there stays untouched
                return failed_results(patient, reason_of(error, files))
            run = PatientRun(patient, plan, segmenter, files, fingerprint, earlier)
            if finished is not None:
                return finished
            with timings.recorded(spent):
                results = run.results()
            with suppress(LesionDeltaError):  # a disk that is full has made a failed patient already, or will
                timings.write_timings(files.timings, spent)
            return results
    except LesionDeltaError as error:  # the log itself cannot be written, or another run is at it
        return failed_results(patient, str(error))


@dataclass(frozen=True, eq=False)
class PatientRun:
    """One patient's run: whom, how, by what, and what an earlier run has left."""

    patient: Patient
    plan: RunPlan
    segmenter: Segmenter
    files: PatientFiles
    fingerprint: Fingerprint
    earlier: EarlierRun

    def results(self) -> Results:
        """The way from images to results. Where it ends early, a visit's own reason is told if it is known."""
        failures: Mapping[str, str] = self.patient.problems
        try:
            self.earlier.make_way(self.patient, self.fingerprint, self.segmenter.facts.contrasts)
            checked = self.check()
            failures = checked.problems
            prepared = self.prepare(checked)
            failures = {**checked.problems, **prepared.failures}
            segmented = self.segment(checked, prepared)
            tracked = follow(self.files, segmented, self.fingerprint, self.earlier.masks)
            judged = judge(tracked)
            return self.write(judged)
        except Exception as error:
            own = error.failures if isinstance(error, NoVisitError) else {}
            return self.fail(reason_of(error, self.files), {**failures, **own})

    def check(self) -> CheckedPatient:
        """Read every image, once."""
        facts = self.segmenter.facts
        checked = check_patient(self.patient, facts.contrasts, self.fingerprint.visits, facts.optional)
        self.segmenter.check(checked)
        return checked

    def prepare(self, checked: CheckedPatient) -> PreparedPatient:
        """Bring all visits, and the atlas, into one space."""
        settings = self.plan.settings.preprocessing
        return prepared_patient(checked, settings, self.segmenter.facts.contrasts, self.plan.work, atlas=True)

    def segment(self, checked: CheckedPatient, prepared: PreparedPatient) -> SegmentedPatient:
        """Segment all visits, and write the automatic masks."""
        log_file = self.files.log.with_name(f"sub-{self.files.patient}_{self.segmenter.facts.method}.log")
        visits = tuple(self.segmenter.segment(checked, prepared, log_file))
        provenance = provenance_of(self.patient, checked, prepared, self.plan.settings, self.segmenter)
        segmented = SegmentedPatient(prepared, visits, provenance)
        write_automatic(self.files, segmented, self.segmenter, self.patient, self.plan.raw)
        return segmented

    def write(self, judged: JudgedPatient) -> Results:
        """Write tables, maps, pictures and the report, and record that all is done."""
        written, judged = write_results(self.files, judged)
        automatic = visit_files_of(self.files, judged.tracked.segmented)
        return finish(self.files, self.fingerprint, judged, [*written, *automatic])

    def fail(self, reason: str, failures: Mapping[str, str]) -> Results:
        """Remove the masks of a failed patient; what a reader has saved meanwhile is kept."""
        results = failed_results(replace(self.patient, problems=failures), reason)
        with suppress(LesionDeltaError):
            EarlierRun.found(self.files, self.patient)
        record_failure(self.files, results)
        return results
