"""The cohort's table and page, from the records of all patients in an output folder."""

from pathlib import Path

from lesiondelta import records
from lesiondelta.files import alone
from lesiondelta.outputs.visit_table import write_visit_tables
from lesiondelta.records import VisitResult
from lesiondelta.report.cohort_page import write_group_page

TABLE, PAGE = "lesiondelta.tsv", "group.html"


def write_group(out: Path) -> tuple[list[VisitResult], tuple[str, ...]]:
    """Write the cohort's table and page from the results of all patients in an output folder.

    Returns these, and the cautions of what segmented them.

    One run at a time: of runs over different patients the last one to write knows the results of all.
    """
    with alone(out / records.FOLDER, wait=True, lock="group.lock", needed=False):
        results, cautions = records.all_results(out)
        write_visit_tables(out, out / TABLE, results, cautions)
        write_group_page(out / PAGE, results, cautions)
    return results, cautions
