from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from lesiondelta import methods
from lesiondelta.comparison.rendering import Table, rendered
from lesiondelta.comparison.study import Scored, Study
from lesiondelta.comparison.tables import cohort_table, first_places, score_table, significance_table, size_table
from lesiondelta.evaluation.statistics import mean_interval
from lesiondelta.files import write_json
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training_patients import TrainingPatient, TrainingVisit

NAMES = ("nnunet", "longitudinal_concat", "difference_weighting")


def patients(prefix, count, visits=2):
    return tuple(
        TrainingPatient(f"{prefix}{n}", tuple(TrainingVisit(str(v), {}, None) for v in range(visits + n % 2)))
        for n in range(count)
    )


@pytest.fixture
def study(tmp_path):
    chosen = tuple(methods.load(name) for name in NAMES)
    return Study(chosen, patients("c", 8), patients("t", 4), (), presets.load("smoke"), 2, 0, tmp_path)


def frame(people, dsc, hd95):
    names = [f"sub-{patient.label}" for patient in people]
    return pd.DataFrame({"participant_id": names, "dsc": dsc, "hd95_mm": hd95, "lesion_f1": dsc, "empty_visits": 0})


@pytest.fixture
def results(study):
    """Difference weighting leads in DSC, the single visit in HD95; rows in any order."""
    base = np.linspace(0.5, 0.8, 8)
    made = {}
    for name, more, far in zip(NAMES, (0, 0.02, 0.05), (3.0, 5.0, 4.0), strict=True):
        cv = frame(study.cohort, base + more, [far] * 8).sample(frac=1, random_state=1)
        test = frame(study.test, [0.6 + more] * 4, [far] * 4)
        made["cv", name], made["test", name] = Scored(cv, cv), Scored(test, test)
    return made


def test_the_cohort(study):
    table = cohort_table(study)
    assert table.rows == (
        ("cross-validation", "8", "20", "2-3", "2 folds, by patient"),
        ("test", "4", "10", "2-3", "ensemble of 2 folds"),
    )


def test_best_is_bold_and_best_prior_work_underlined(study, results):
    """nnU-Net alone is prior work here; it is best in HD95, and there bold."""
    table = score_table("Table 2", study, results, ("cv", "test"))
    assert [row[0] for row in table.rows if len(row) == 1] == ["single visit", "longitudinal"]
    single, concat, ours = ([c.text("md") for c in row[1:]] for row in table.rows if len(row) > 1)
    found = mean_interval(np.linspace(0.5, 0.8, 8))
    assert single[0] == f"<u>0.650</u> ({found.low:.3f}-{found.high:.3f})"
    assert single[1].startswith("**<u>3.00</u>**")
    assert ours[0].startswith("**0.700**")
    assert concat[0].startswith("0.670")
    assert ours[3] == "**0.650**"  # four test patients: no interval


def test_what_reads_the_same_is_marked_the_same(study, results):
    """Means that differ in the fourth digit are one in a table with three."""
    near = frame(study.test, [0.6004] * 4, [3.0] * 4)
    results = {("test", name): Scored(near.assign(dsc=near["dsc"] - n * 2e-4), near) for n, name in enumerate(NAMES)}
    table = score_table("Table 2", study, results, ("test",))
    assert [row[1].best for row in table.rows if len(row) > 1] == [True, True, True]
    assert [row[1].best_prior_work for row in table.rows if len(row) > 1] == [True, False, False]


def test_the_three_forms(study, results):
    table = score_table("Table 2", study, results, ("cv",), paper=True)
    tex = rendered(table, "tex")
    assert r"\textbf{0.700} (" in tex
    assert r"\underline{0.650} (" in tex
    assert tex.count(r"\\") == 2 + 2 + 3
    md = rendered(table, "md").splitlines()
    assert len({line.count("|") for line in md if line.startswith("|")}) == 1
    assert "0.756 | 4.61 | 0.733" in md[-3]
    assert md[-1] == "Visits with an empty mask: none."
    tsv = pd.read_csv(StringIO(rendered(table, "tsv")), sep="\t")
    assert list(tsv["group"]) == ["single visit", "longitudinal", "longitudinal"]
    assert list(tsv["cross-validation: DSC"]) == pytest.approx([0.65, 0.67, 0.7])
    found = mean_interval(np.linspace(0.5, 0.8, 8))
    assert tsv["cross-validation: DSC, low"][0] == pytest.approx(found.low, abs=1e-6)
    assert list(tsv["paper's test: DSC"]) == [0.742, 0.753, 0.756]


def test_an_absent_score_is_not_a_number_in_tsv(study, results):
    table = score_table(
        "Table 2", replace(study, absent={methods.EXTERNAL["samseg"]: "It is not here."}), results, ("cv",)
    )
    tsv = pd.read_csv(StringIO(rendered(table, "tsv")), sep="\t").set_index("method")
    assert np.isnan(tsv.loc["SAMSEG", "cross-validation: DSC"])


def test_significance_needs_six_patients(study, results):
    table = significance_table(study, results)
    assert set(table["split"]) == {"cv"}
    assert len(table) == 3 * 3
    dsc = table[(table["measure"] == "dsc") & (table["first"] == "nnunet") & (table["second"] == NAMES[2])].iloc[0]
    assert dsc["difference"] == pytest.approx(-0.05)
    assert dsc["p"] == pytest.approx(2 / 2**8)  # all eight on one side
    assert dsc["p_holm"] == pytest.approx(3 * 2 / 2**8)
    assert dsc["rank_biserial"] == -1


def test_first_places_know_that_less_is_better_for_distances(study, results):
    table = first_places(study, results).set_index("measure")
    assert table.loc["dsc", "difference_weighting"] == 1
    assert table.loc["hd95_mm", "nnunet"] == 1


def test_a_method_without_a_program_has_a_row_and_a_reason(study, results):
    without = replace(study, absent={methods.EXTERNAL["samseg"]: "It is not here."})
    table = score_table("Table 2", without, results, ("cv",), paper=True)
    row = next(row for row in table.rows if row[0] == "SAMSEG")
    assert row == ("SAMSEG", "-", "-", "-", "0.455", "15.80", "0.331")
    assert table.rows.index(row) > table.rows.index(("longitudinal",))
    assert "\nSAMSEG: It is not here.\n" in rendered(table, "md")


def test_a_program_is_scored_beside_the_trained_methods_without_a_size(study, results):
    samseg = methods.EXTERNAL["samseg"]
    results = {**results, ("cv", "samseg"): results["cv", "nnunet"], ("test", "samseg"): results["test", "nnunet"]}
    study = replace(study, programs={samseg: "7.4.1"})
    table = score_table("Table 2", study, results, ("cv",))
    assert next(row for row in table.rows if row[0] == "SAMSEG")[1].mean == pytest.approx(0.65)
    assert len(significance_table(study, results).query("measure == 'dsc'")) == 6
    made = {"seconds": 50, "device": "cpu", "threads": 1, "iterations_done": 800, "batch": 2}
    for method in study.scored:
        for patient in study.cohort:
            write_json(study.predictions("cv", method) / f"sub-{patient.label}" / "prediction.json", made)
    windows = {**dict.fromkeys(NAMES, (48, 48, 64)), NAMES[-1]: None}
    trainings = {name: [{**made, "seconds": 60}] for name in NAMES}
    sizes = size_table(study, dict.fromkeys(NAMES, 60), windows, trainings).rows
    assert sizes[0] == ("SAMSEG", "-", "-", "-", "-", "20.0")  # 8 patients, 50 s each, 20 visits
    assert sizes[1] == ("nnUNet", "60", "48x48x64", "1,600 patches", "1.0", "20.0")
    assert sizes[-1][2:4] == ("whole", "1,600 slices")


def test_empty_masks_are_counted(study, results):
    results["cv", "nnunet"].filtered.loc[0, "empty_visits"] = 2
    table = score_table("Table 2", study, results, ("cv", "test"))
    assert table.notes == ("Visits with an empty mask: nnUNet 2 (cross-validation).",)


def test_signs_of_latex_are_text():
    title, heading, cell = "T. 5 % of {x}", ("a_b", "x: R&D"), r"~$1 #2 \input^<>"
    tex = rendered(Table(title, heading, (("g^1",), (cell, "2")), ("A note_",)), "tex")
    assert r"\caption{5 \% of \{x\}}" in tex
    assert r" & \multicolumn{1}{c}{x} \\" in tex
    assert r"a\_b & R\&D \\" in tex
    assert r"\textit{g\textasciicircum{}1}" in tex
    assert r"\textasciitilde{}\$1 \#2 \textbackslash{}input\textasciicircum{}\textless{}\textgreater{} & 2 \\" in tex
    assert r"A note\_" in tex


def test_a_latex_table_has_the_splits_above_the_measures(study, results):
    lines = rendered(score_table("Table 2", study, results, ("cv", "test")), "tex").splitlines()
    at = lines.index(r"\toprule")
    assert lines[at + 1] == r" & \multicolumn{3}{c}{cross-validation} & \multicolumn{3}{c}{test} \\"
    assert lines[at + 2] == r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}"
    assert lines[at + 3] == r"method & DSC & HD95 (mm) & F1 & DSC & HD95 (mm) & F1 \\"
