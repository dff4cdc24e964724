"""What a study leaves to read: tables in three forms, Figures 2 and 3, statistics, and the record of its making."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lesiondelta import __version__
from lesiondelta.comparison.figures import choose_patients, write_distributions, write_masks
from lesiondelta.comparison.predictions import prediction_record
from lesiondelta.comparison.rendering import Form, Table, rendered
from lesiondelta.comparison.study import SCORES, Results, Split, Study
from lesiondelta.comparison.tables import (
    TITLES,
    cohort_table,
    first_places,
    score_table,
    significance_table,
    size_table,
)
from lesiondelta.evaluation.statistics import LEAST_PATIENTS
from lesiondelta.evaluation.tables import tsv
from lesiondelta.files import write_json, write_text
from lesiondelta.inference.model import load_model, read_description
from lesiondelta.nnunet.training import source_commit
from lesiondelta.nnunet.training_patients import content_hash

FORMS: tuple[Form, ...] = ("md", "tex", "tsv")
TRAINING = ("seconds", "device", "threads", "precision", "batch", "epochs_done", "iterations_done", "commit", "commits")
"""What the record keeps of a fold's training."""


def write_outputs(study: Study, results: Results, *, paper: bool = False) -> Path:
    """Write tables, figures and record.json; returns the page that gathers the tables, OUT/comparison.md."""
    _remove_earlier(study, results)
    made = record(study)
    page = [f"# Comparison of {', '.join(method.title for method in study.scored)}\n", how_it_was_made(study, made)]
    for name, table in _tables(study, results, paper, made).items():
        for form in FORMS:
            write_text(study.out / "tables" / f"{name}.{form}", rendered(table, form))
        page.append(rendered(table, "md"))
    few = [TITLES[split] for split, patients in study.splits.items() if len(patients) < LEAST_PATIENTS]
    if few:
        page.append(
            f"No interval and no test is given for {' and '.join(few)}: fewer than {LEAST_PATIENTS} patients.\n"
        )
    for name, frame in (
        ("significance", significance_table(study, results)),
        ("first_places", first_places(study, results)),
    ):
        write_text(study.out / "tables" / f"{name}.tsv", tsv(frame))
        if len(frame):
            page.append(f"**{name.replace('_', ' ').capitalize()}**\n\n{_markdown(frame)}")
    split: Split = "test" if study.test else "cv"
    for suffix in ("svg", "png"):
        write_masks(study.out / "figures" / f"figure_2.{suffix}", study, results, split)
        write_distributions(study.out / "figures" / f"figure_3.{suffix}", study, results, split)
    chosen = ", ".join(f"{why} sub-{patient.label}" for why, patient in choose_patients(study, results, split).items())
    page.append(
        f"![Masks of {chosen}](figures/figure_2.png)\n\n**Figure 2.** Patients of {TITLES[split]}, ranked by DSC "
        f"averaged over the methods: {chosen}. Last visit, the axial slice with most reference lesion; below, the "
        "patient's DSC: the mean over visits, after the size filter.\n"
    )
    page.append(
        f"![DSC and lesion F1 by patient](figures/figure_3.svg)\n\n**Figure 3.** Patients of {TITLES[split]}: "
        "single-visit baseline grey, longitudinal baselines blue, difference weighting orange.\n"
    )
    write_json(study.out / "record.json", made)
    write_text(study.out / "comparison.md", "\n".join(page))
    return study.out / "comparison.md"


def how_it_was_made(study: Study, made: dict[str, Any]) -> str:
    """The budget in words."""
    preset = study.preset
    overlap = "each method's own" if study.overlap is None else study.overlap
    programs = "".join(f"{m.title} ({v}) as it comes, on whole heads. " for m, v in study.programs.items())
    commits = "; ".join(f"{what} {', '.join(found) or 'unknown'}" for what, found in made["commits"].items())
    return (
        "Means over patients (95 % BCa bootstrap intervals from six patients on). Every trained method: "
        f"{study.folds} folds by patient, preset {preset.name}, "
        f"{preset.epochs} epochs of {preset.iterations_per_epoch} iterations unless it has a schedule of its own "
        f"(samples seen are in Table 5), overlap of windows {overlap}, seed "
        f"{study.seed}, {study.device}. Commits: {commits}. lesiondelta {made['versions']['lesiondelta']}, torch "
        f"{made['versions']['torch']}. {programs}Scores in the patient's space; "
        "best bold, best prior work underlined.\n"
    )


def record(study: Study) -> dict[str, Any]:
    """Commits of trainings, predictions and tables, seed, budget, data hashes, parameters, how each fold trained."""
    models = {m.name: [study.model(m, fold) / "model" for fold in range(study.folds)] for m in study.methods}
    described = {name: [read_description(model) for model in folds] for name, folds in models.items()}
    training = {name: [description.training for description in folds] for name, folds in described.items()}
    every = [fold for folds in training.values() for fold in folds]
    predicted = [
        prediction_record(study.predictions(split, method), patient.label)
        for split, patients in study.splits.items() for method in study.scored for patient in patients
    ]  # fmt: skip
    return {
        "commits": {
            "trainings": _commits(every),
            "predictions": _commits(predicted),
            "tables": _commits([{"commit": source_commit()}]),
        },
        "versions": {"lesiondelta": __version__, "torch": version("torch"), "nnunetv2": version("nnunetv2")},
        "seed": study.seed,
        "folds": study.folds,
        "preset": asdict(study.preset),
        "windows": {name: folds[0].patch for name, folds in described.items()},
        "device": study.device,
        "threads": study.threads,
        "overlap": study.overlap,
        "parameters": {name: _parameters(folds[0]) for name, folds in models.items()},
        "trainings": {
            name: [{key: fold.get(key) for key in TRAINING} | _iterations(fold) for fold in folds]
            for name, folds in training.items()
        },
        "absent": {method.name: reason for method, reason in study.absent.items()},
        "programs": {method.name: found for method, found in study.programs.items()},
        "data_sha256": {split: content_hash(patients) for split, patients in study.splits.items()},
        "patients": {split: [patient.label for patient in patients] for split, patients in study.splits.items()},
    }


def _iterations(training: Mapping[str, Any]) -> dict[str, int]:
    """How many there were; models of earlier versions do not say, and had the preset's."""
    planned = training["epochs_done"] * training["preset"]["iterations_per_epoch"]
    return {"iterations_done": training.get("iterations_done", planned)}


def _parameters(model: Path) -> int:
    return sum(weights.numel() for weights in load_model(model).network.parameters())


def _commits(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every one once; models of earlier versions name only the first of theirs."""
    every = [record.get("commits") or [record["commit"]] for record in records]
    return sorted({commit for commits in every for commit in commits if commit})


def _remove_earlier(study: Study, results: Results) -> None:
    """Tables, figures and scores of methods and splits that were compared here before do not stay as if of now."""
    for path in (study.out / "tables", study.out / "figures"):
        shutil.rmtree(path, ignore_errors=True)
    for path in [path for folder in SCORES for path in (study.out / folder).glob("*/*/")]:
        if (path.parent.name, path.name) not in results:
            shutil.rmtree(path)


def _tables(study: Study, results: Results, paper: bool, made: dict[str, Any]) -> dict[str, Table]:
    own: tuple[Split, ...] = ("cv", "test")
    tables = {
        "table_1": cohort_table(study),
        "table_2": score_table("Table 2. Cross-validation and test", study, results, own, paper=paper),
        "table_4": score_table("Table 4. Without size filter", study, results, own, filtered=False),
        "table_5": size_table(study, made["parameters"], made["windows"], made["trainings"]),
    }
    if study.external:
        tables["table_3"] = score_table("Table 3. External cohort", study, results, ("external",))
    return dict(sorted(tables.items()))


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in frame.to_numpy()]
    lines = [list(frame.columns), ["---"] * len(frame.columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
