"""What an earlier run of a patient has left: its results, and what a reader has edited since."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lesiondelta import records
from lesiondelta.cohort import Patient, visit_name
from lesiondelta.inputs.checks import log_choices
from lesiondelta.outputs.derivatives import PatientFiles
from lesiondelta.pipeline.corrections import corrections_now, removed_masks, take_all_edits
from lesiondelta.pipeline.group import TABLE, write_group
from lesiondelta.pipeline.rebuild import rebuild
from lesiondelta.pipeline.writing import possible_files
from lesiondelta.records import Fingerprint, MaskHashes, Record, VisitResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """The record of the latest run, if there is one, and the hashes of masks as they were found."""

    files: PatientFiles
    record: Record | None
    masks: MaskHashes

    @classmethod
    def found(cls, files: PatientFiles, patient: Patient) -> "EarlierRun":
        """Read the record, and keep what a reader has edited as corrections; raises where an edit cannot be used."""
        record = records.read_record(files.out, files.patient)
        return cls(files, record, take_all_edits(files, record, [visit.label for visit in patient.visits]))

    def finished_results(self, fingerprint: Fingerprint) -> tuple[VisitResult, ...] | None:
        """The results of a run that is finished, with what has been corrected since; None where there is none."""
        if self.record is None or not self.record.is_done(self.files.out, fingerprint):
            return None
        log.info("sub-%s is finished: input, settings and model are the same", self.files.patient)
        if corrections_now(self.files, self.record.segmented_visits) == self.record.corrections:
            return self.record.results
        log.warning("sub-%s: masks have been corrected by hand since: tables and report follow", self.files.patient)
        return rebuild(self.files, self.record)

    def make_way(self, patient: Patient, fingerprint: Fingerprint, contrasts: Sequence[str]) -> None:
        """Record what a new run is going to write, and clear what is there."""
        self._warn_of_replaced(patient)
        out, old = self.files.out, self.record.files if self.record else ()
        new = possible_files(self.files, [visit.label for visit in patient.visits], contrasts)
        names = tuple(sorted({*old, *self.files.relative(new)}))
        begun = Record(patient.label, False, fingerprint, names, masks={**self.masks, **removed_masks(names)})
        records.begin(out, begun, [*(out / name for name in old), self.files.visit_table])
        if (out / TABLE).is_file():  # nothing is left of what it says of this patient
            write_group(out)
        log_choices(patient)

    def _warn_of_replaced(self, patient: Patient) -> None:
        """A visit is segmented with its prior: a run over other visits replaces the patient's results as a whole."""
        asked = {*(visit.label for visit in patient.visits), *patient.problems}
        if replaced := set(self.record.segmented_visits if self.record else ()) - asked:
            names = ", ".join(visit_name(label) for label in sorted(replaced))
            log.warning("sub-%s: earlier results of %s are removed, this run is without them", patient.label, names)
