"""Figure 2, masks of chosen patients, and Figure 3, distributions over patients (Rokuss et al. 2024)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lesiondelta.comparison.predictions import mask_path
from lesiondelta.comparison.study import Results, Split, Study
from lesiondelta.comparison.tables import MEASURES, NOT_PRIOR_WORK, TITLES
from lesiondelta.files import atomic
from lesiondelta.images import Array, read_image, read_mask
from lesiondelta.methods import ExternalMethod, Method
from lesiondelta.nnunet.training_patients import TrainingPatient
from lesiondelta.report.pictures import grey_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = NOT_PRIOR_WORK[0]
SINGLE_COLOUR, LONGITUDINAL_COLOUR, OUR_COLOUR = "#8a9099", "#2f6fb3", "#c2410c"
BOTH, MISSED, FALSE = "#ffd23f", "#46c8ff", "#ff5a4f"
LEGEND = {BOTH: "lesion, found", MISSED: "missed", FALSE: "false"}
MARGIN = 4  # voxels around the brain
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lesiondelta", "font.size": 10}


def choose_patients(study: Study, results: Results, split: Split) -> dict[str, TrainingPatient]:
    """The median patient (the better of two) and the worst, by DSC averaged over the methods; of one patient, that."""
    by_method = [results[split, m.name].filtered.set_index("participant_id")["dsc"] for m in study.scored]
    patients = {f"sub-{patient.label}": patient for patient in study.splits[split]}
    mean = {name: float(np.nanmean([scores[name] for scores in by_method])) for name in patients}
    ranked = sorted(patients, key=lambda name: (mean[name], name))
    chosen = {"median": patients[ranked[len(ranked) // 2]], "worst": patients[ranked[0]]}
    return chosen if len(ranked) > 1 else {"only": patients[ranked[0]]}


def write_masks(path: Path, study: Study, results: Results, split: Split) -> None:
    """Figure 2: FLAIR of the last two visits, the reference and every method's mask, in the slice with most lesion."""
    chosen = choose_patients(study, results, split)
    titles = ["prior visit", "current visit", "reference", *(method.title for method in study.scored)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(titles) + 0.3, 2.9 * len(chosen) + 0.5), layout="constrained", dpi=150)
        grid = figure.subplots(len(chosen), len(titles), squeeze=False)
        for (rank, patient), axes in zip(chosen.items(), grid, strict=True):
            _draw_patient(axes, patient, study, split)
            axes[0].set_ylabel(f"{rank}: sub-{patient.label}")
            for place, method in zip(axes[3:], study.scored, strict=True):
                dsc = results[split, method.name].filtered.set_index("participant_id")["dsc"][f"sub-{patient.label}"]
                place.set_xlabel(f"DSC {dsc:.2f}")
        for place, title in zip(grid[0], titles, strict=True):
            place.set_title(title, fontsize=10)
        marks = [mpl.patches.Patch(color=colour, label=label) for colour, label in LEGEND.items()]
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
        _save(figure, path)


def _draw_patient(axes: Sequence["Axes"], patient: TrainingPatient, study: Study, split: Split) -> None:
    current = patient.visits[-1]
    prior = patient.visits[-2] if len(patient.visits) > 1 else None
    reference = read_mask(current.reference).data
    found = [read_mask(mask_path(study.predictions(split, m), patient.label, current.label)).data for m in study.scored]
    flair = read_image(current.images["FLAIR"]).data
    lesions = reference if reference.any() else np.any(found, axis=0)
    z = int(lesions.sum(axis=(0, 1)).argmax()) if lesions.any() else flair.shape[2] // 2
    box = tuple(_range(np.flatnonzero(flair.any(axis=others))) for others in ((1, 2), (0, 2)))

    def plane(volume: Array) -> Array:
        """Anterior on top, the patient's right on the left (the grid is RAS)."""
        shown: Array = volume[*box, z][::-1, ::-1].T
        return shown

    images = [None if prior is None else read_image(prior.images["FLAIR"]).data, *(flair,) * (len(axes) - 1)]
    for place, image in zip(axes, images, strict=True):
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
        if image is not None:
            place.imshow(plane(grey_values(image)), cmap="gray", vmin=0, vmax=1)
    for place, mask in zip(axes[2:], [reference, *found], strict=True):
        for colour, part in ((BOTH, mask & reference), (MISSED, reference & ~mask), (FALSE, mask & ~reference)):
            layer = np.zeros((*plane(part).shape, 4))
            layer[plane(part)] = (*mpl.colors.to_rgb(colour), 0.8)
            place.imshow(layer, interpolation="nearest")


def _range(where: Array) -> slice:
    return slice(max(int(where[0]) - MARGIN, 0), int(where[-1]) + MARGIN + 1) if len(where) else slice(None)


def write_distributions(path: Path, study: Study, results: Results, split: Split) -> None:
    """Figure 3: DSC and lesion F1 by method, a dot a patient; longitudinal baselines, single visit and ours apart."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.4 + 2.0 * len(study.scored), 4.2), layout="constrained", dpi=150)
        for axes, measure in zip(figure.subplots(1, 2), ("dsc", "lesion_f1"), strict=True):
            for place, method in enumerate(study.scored):
                _draw_values(
                    axes, place, results[split, method.name].filtered[measure].dropna().to_numpy(float), _colour(method)
                )
            axes.set_xticks(range(len(study.scored)), [m.title for m in study.scored], rotation=20, ha="right")
            axes.set(title=MEASURES[measure], ylim=(-0.02, 1.02))
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"Patients of {TITLES[split]}: box quartiles, diamond mean", fontsize=10)
        _save(figure, path)


def _draw_values(axes: "Axes", place: int, values: Array, colour: str) -> None:
    line: dict[str, Any] = {"color": colour}
    axes.boxplot(
        [values], positions=[place], widths=0.5, showfliers=False, medianprops={**line, "linewidth": 2},
        boxprops=line, whiskerprops=line, capprops=line,
    )  # fmt: skip
    beside = np.random.default_rng(0).uniform(-0.16, 0.16, len(values))
    axes.scatter(place + beside, values, s=14, color=colour, alpha=0.6, linewidths=0)
    axes.scatter([place], [values.mean()], s=46, color=colour, marker="D", edgecolor="white", zorder=3)


def _colour(method: Method | ExternalMethod) -> str:
    if method.name.startswith(OURS):  # variants too
        return OUR_COLOUR
    return LONGITUDINAL_COLOUR if method.longitudinal else SINGLE_COLOUR


def _save(figure: Figure, path: Path) -> None:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=metadata, bbox_inches="tight")
