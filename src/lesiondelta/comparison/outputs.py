"""What a study leaves to read: tables in three forms, Figures 2 and 3, statistics, and the record of its making."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesiondelta import __version__
from lesiondelta.comparison.figures import choose_patients, write_distributions, write_masks
from lesiondelta.comparison.study import Results, Split, Study
from lesiondelta.comparison.tables import (
    TITLES,
    Form,
    Table,
    cohort_table,
    first_places,
    rendered,
    score_table,
    significance_table,
    size_table,
)
from lesiondelta.evaluation.tables import tsv
from lesiondelta.files import write_json, write_text
from lesiondelta.inference import Model, load_model
from lesiondelta.nnunet.cohort import content_hash

FORMS: tuple[Form, ...] = ("md", "tex", "tsv")


def write_outputs(study: Study, results: Results, *, paper: bool = False) -> Path:
    """Write tables, figures and record.json; returns the page that gathers the tables, OUT/comparison.md."""
    made = record(study)
    page = [f"# Comparison of {', '.join(method.title for method in study.scored)}\n", how_it_was_made(study, made)]
    for form in FORMS:
        for name, table in _tables(study, results, form, paper, made).items():
            write_text(study.out / "tables" / f"{name}.{form}", rendered(table, form))
            page += [rendered(table, form)] if form == "md" else []
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
        f"averaged over the methods: {chosen}. Last visit, the axial slice with most reference lesion.\n"
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
    programs = "".join(f"{m.title} ({v}) as it comes, on whole heads. " for m, v in study.programs.items())
    return (
        "Means over patients (95 % BCa bootstrap intervals from six patients on). Every trained method: "
        f"{study.folds} folds by patient, preset {preset.name}, "
        f"{preset.epochs * preset.iterations_per_epoch:,} iterations, patch "
        f"{made['patch']}, batch {made['batch']}, overlap of windows {study.overlap}, seed {study.seed}, "
        f"{study.device}; commit {', '.join(made['commits'])}, lesiondelta {made['versions']['lesiondelta']}, torch "
        f"{made['versions']['torch']}. {programs}Scores in the patient's space; "
        "best bold, best prior work underlined.\n"
    )


def record(study: Study) -> dict[str, Any]:
    """Commits of the trainings, seed, budget, data hashes, parameters, seconds of a training (mean over folds)."""
    models = {
        m.name: [load_model(study.model(m, fold) / "model") for fold in range(study.folds)] for m in study.methods
    }
    training = {name: [model.description.training for model in folds] for name, folds in models.items()}
    every = [fold for folds in training.values() for fold in folds]
    first: Model = next(iter(models.values()))[0]
    return {
        "commits": sorted({fold["commit"] for fold in every if fold["commit"]}),
        "versions": {"lesiondelta": __version__, "torch": version("torch"), "nnunetv2": version("nnunetv2")},
        "seed": study.seed,
        "folds": study.folds,
        "preset": asdict(study.preset),
        "patch": "x".join(str(edge) for edge in first.description.patch),
        "batch": every[0]["batch"],
        "device": study.device,
        "threads": study.threads,
        "overlap": study.overlap,
        "parameters": {name: _parameters(folds[0]) for name, folds in models.items()},
        "training_seconds": {name: float(np.mean([f["seconds"] for f in folds])) for name, folds in training.items()},
        "absent": {method.name: reason for method, reason in study.absent.items()},
        "programs": {method.name: found for method, found in study.programs.items()},
        "data_sha256": {split: content_hash(patients) for split, patients in study.splits.items()},
        "patients": {split: [patient.label for patient in patients] for split, patients in study.splits.items()},
    }


def _parameters(model: Model) -> int:
    return sum(weights.numel() for weights in model.network.parameters())


def _tables(study: Study, results: Results, form: Form, paper: bool, made: dict[str, Any]) -> dict[str, Table]:
    own: tuple[Split, ...] = ("cv", "test")
    tables = {
        "table_1": cohort_table(study),
        "table_2": score_table("Table 2. Cross-validation and test", study, results, own, form, paper=paper),
        "table_4": score_table("Table 4. Without size filter", study, results, own, form, filtered=False),
        "table_5": size_table(study, made["parameters"], made["training_seconds"]),
    }
    if study.external:
        tables["table_3"] = score_table("Table 3. External cohort", study, results, ("external",), form)
    return dict(sorted(tables.items()))


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in frame.to_numpy()]
    lines = [list(frame.columns), ["---"] * len(frame.columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
