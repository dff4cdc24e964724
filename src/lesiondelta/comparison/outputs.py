"""What a study leaves to read: tables in three forms, Figure 3, statistics, and the record of how it was made."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lesiondelta import __version__
from lesiondelta.comparison.study import Results, Split, Study
from lesiondelta.comparison.tables import (
    MEASURES,
    NOT_PRIOR_WORK,
    TITLES,
    Form,
    Table,
    cohort_table,
    first_places,
    rendered,
    score_table,
    significance_table,
)
from lesiondelta.evaluation.tables import tsv
from lesiondelta.files import atomic, write_json, write_text
from lesiondelta.inference import load_model
from lesiondelta.methods import Method
from lesiondelta.nnunet.cohort import content_hash

FORMS: tuple[Form, ...] = ("md", "tex", "tsv")
OURS = NOT_PRIOR_WORK[0]
SINGLE_COLOUR, LONGITUDINAL_COLOUR, OUR_COLOUR = "#8a9099", "#2f6fb3", "#c2410c"


def write_outputs(study: Study, results: Results, *, paper: bool = False) -> Path:
    """Write tables, figures and record.json; returns the page that gathers the tables, OUT/comparison.md."""
    page = [f"# Comparison of {', '.join(method.title for method in study.methods)}\n", how_it_was_made(study)]
    for form in FORMS:
        for number, table in enumerate(_tables(study, results, form, paper), start=1):
            if table is not None:
                write_text(study.out / "tables" / f"table_{number}.{form}", rendered(table, form))
                page += [rendered(table, form)] if form == "md" else []
    for name, frame in (
        ("significance", significance_table(study, results)),
        ("first_places", first_places(study, results)),
    ):
        write_text(study.out / "tables" / f"{name}.tsv", tsv(frame))
        if len(frame):
            page.append(f"**{name.replace('_', ' ').capitalize()}**\n\n{_frame(frame)}")
    split: Split = "test" if study.test else "cv"
    for suffix in ("svg", "png"):
        write_figure(study.out / "figures" / f"figure_3.{suffix}", study, results, split)
    page.append(f"![DSC and lesion F1 by patient, {TITLES[split]}](figures/figure_3.svg)\n")
    write_json(study.out / "record.json", record(study))
    write_text(study.out / "comparison.md", "\n".join(page))
    return study.out / "comparison.md"


def how_it_was_made(study: Study) -> str:
    """The budget in words."""
    made, preset = record(study), study.preset
    iterations = f"{preset.epochs * preset.iterations_per_epoch:,} iterations"
    return (
        f"Means over patients (95 % BCa bootstrap intervals from six patients on). Every method: {study.folds} folds "
        f"by patient, preset {preset.name}, {iterations}, seed {study.seed}, {study.device}; commit {made['commit']}, "
        f"lesiondelta {made['versions']['lesiondelta']}, torch {made['versions']['torch']}. Scores in the patient's "
        "space; best bold, best prior work underlined.\n"
    )


def record(study: Study) -> dict[str, Any]:
    """Commit, seed, budget, data hashes, parameters."""
    models = {method.name: load_model(study.model(method, 0) / "model") for method in study.methods}
    return {
        "commit": next(iter(models.values())).description.training["commit"],
        "versions": {"lesiondelta": __version__, "torch": version("torch"), "nnunetv2": version("nnunetv2")},
        "seed": study.seed,
        "folds": study.folds,
        "preset": asdict(study.preset),
        "device": study.device,
        "parameters": {
            name: sum(weights.numel() for weights in model.network.parameters()) for name, model in models.items()
        },
        "data_sha256": {split: content_hash(patients) for split, patients in study.splits.items()},
        "patients": {split: [patient.label for patient in patients] for split, patients in study.splits.items()},
    }


def write_figure(path: Path, study: Study, results: Results, split: Split) -> None:
    """Figure 3: DSC and lesion F1 by method, a dot a patient; longitudinal baselines, single visit and ours apart."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lesiondelta", "font.size": 10}):
        figure = Figure(figsize=(2.4 + 2.0 * len(study.methods), 4.2), layout="constrained", dpi=150)
        for axes, measure in zip(figure.subplots(1, 2), ("dsc", "lesion_f1"), strict=True):
            for place, method in enumerate(study.methods):
                values = results[split, method.name].filtered[measure].dropna().to_numpy(dtype=float)
                colour = _colour(method)
                axes.boxplot(
                    [values], positions=[place], widths=0.5, showfliers=False,
                    medianprops={"color": colour, "linewidth": 2}, boxprops={"color": colour},
                    whiskerprops={"color": colour}, capprops={"color": colour},
                )  # fmt: skip
                beside = np.random.default_rng(0).uniform(-0.16, 0.16, len(values))
                axes.scatter(place + beside, values, s=14, color=colour, alpha=0.6, linewidths=0)
                axes.scatter([place], [values.mean()], s=46, color=colour, marker="D", edgecolor="white", zorder=3)
            axes.set_xticks(range(len(study.methods)), [m.title for m in study.methods], rotation=20, ha="right")
            axes.set(title=MEASURES[measure], ylim=(-0.02, 1.02))
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"Patients of {TITLES[split]}: box quartiles, diamond mean", fontsize=10)
        with atomic(path) as temporary:
            figure.savefig(
                temporary, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None
            )


def _tables(study: Study, results: Results, form: Form, paper: bool) -> tuple[Table | None, ...]:
    own: tuple[Split, ...] = ("cv", "test")
    external = score_table("Table 3. External cohort", study, results, ("external",), form) if study.external else None
    return (
        cohort_table(study),
        score_table("Table 2. Cross-validation and test", study, results, own, form, paper=paper),
        external,
        score_table("Table 4. Without size filter", study, results, own, form, filtered=False),
    )


def _colour(method: Method) -> str:
    if method.name == OURS:
        return OUR_COLOUR
    return LONGITUDINAL_COLOUR if method.longitudinal else SINGLE_COLOUR


def _frame(frame: Any) -> str:  # noqa: ANN401
    rows = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in frame.to_numpy()]
    lines = [list(frame.columns), ["---"] * len(frame.columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
