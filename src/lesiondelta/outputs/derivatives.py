"""A BIDS derivative: where the results of a visit lie, and how they are written."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesiondelta import __version__
from lesiondelta.atlas.parts import Part
from lesiondelta.cohort import Visit
from lesiondelta.errors import OutputError
from lesiondelta.files import write_json, write_text
from lesiondelta.images import Affine, Array, Grid, Volume, write_displacement, write_itk_transform, write_volume

DESCRIPTION = "dataset_description.json"
LOOSE_FILES = "loose files"
MASK, AUTOMATIC = "space-orig_label-L_mask", "space-orig_label-L_desc-automatic_mask"
PATIENT_MASK, PATIENT_AUTOMATIC = "space-patient_label-L_mask", "space-patient_label-L_desc-automatic_mask"
PATIENT_PROBABILITY = "space-patient_label-L_probseg"
"""The masks that count, those that the model made (they differ once a reader has corrected one), its probabilities."""
BIDS_VERSION = "1.10.0"
IGNORED = (
    "logs/", "sub-*/figures", "sub-*.html", "sub-*/*_visits.tsv", "sub-*/*_lesions.*", "sub-*/*_changes.*",
    "lesiondelta.*", "group.html", "settings.json", "*_xfm.*", "*.seg.nrrd", "*.dcm", "sourcedata/",
)  # fmt: skip

README = """Lesion masks of MS patients over time, made by lesiondelta (research software, not a medical device).

sub-X.html            a patient's report; group.html links them all
lesiondelta.tsv       one row a visit: status (look at what is flagged), volumes, counts of changes
sub-X/ses-Y/anat      masks, probabilities, numbered lesions and changes on the FLAIR's own grid (space-orig), images
                      and mask in the patient's space (space-patient). Correct a mask by hand: edit
                      *_space-orig_label-L_mask.nii.gz, then `lesiondelta run BIDS OUT participant --reports-only`;
                      *_desc-automatic_mask stays what the model made
                      *.seg.nrrd for 3D Slicer; *.dcm, DICOM SEG, where the images came as DICOM
sub-X/*.tsv           lesions, changes and visits of a patient; columns are described in the .json of the same name
sourcedata            what DICOM series were converted to
logs                  what happened, and why a visit is flagged or has failed
"""


@dataclass(frozen=True)
class Extra:
    """An output that only some models offer: what its file is called, how it is written, what its sidecar says of it.

    `write` takes a path, values (K, X, Y, Z) and their grid. `forward`: only for a visit that comes after its prior.
    """

    name: str
    type: str
    description: str
    write: Callable[[Path, Array, Grid], None]
    forward: bool = False


def _write_single(path: Path, values: Array, grid: Grid) -> None:
    write_volume(path, Volume(values[0], grid.affine))


EXTRAS = {
    "new": Extra(
        "space-patient_label-L_desc-new_probseg",
        "Lesion",
        "Probability that a voxel belongs to a new lesion: one that the visit has and its prior has not.",
        _write_single,
        forward=True,
    ),
    "displacement": Extra(
        "space-patient_desc-displacement_xfm",
        "displacement field",
        "ITK convention (LPS, mm): takes points of this visit to the same places in its prior, both in the patient's "
        "space, so that antsApplyTransforms with it resamples the prior's image onto this visit. 0 outside the brain.",
        write_displacement,
    ),
}
"""By the name that a network gives them in its `extras`."""


@dataclass(frozen=True)
class Place:
    """The files of one visit under the output folder."""

    out: Path
    patient: str
    visit: str

    @property
    def stem(self) -> str:
        """`sub-X_ses-Y`, or `sub-X` where the dataset has no sessions."""
        return f"sub-{self.patient}_ses-{self.visit}" if self.visit else f"sub-{self.patient}"

    def anat(self, name: str) -> Path:
        """An image or its sidecar."""
        session = f"ses-{self.visit}" if self.visit else ""
        return self.out / f"sub-{self.patient}" / session / "anat" / f"{self.stem}_{name}"

    def transform(self, source: str, suffix: str) -> Path:
        """A transform into the patient's space (`suffix` .txt) or its sidecar (.json)."""
        name = f"{self.stem}_from-{source}_to-patient_mode-image_xfm{suffix}"
        return self.out / f"sub-{self.patient}" / name

    def brain(self, suffix: str = ".nii.gz") -> Path:
        """The brain in the patient's space, one mask for all visits, or its sidecar."""
        return self._of_all_visits(f"desc-brain_mask{suffix}")

    def parts(self, suffix: str = ".nii.gz") -> Path:
        """The parts of the brain in the patient's space, one map for all visits, or its sidecar."""
        return self._of_all_visits(f"seg-anatomy_dseg{suffix}")

    def _of_all_visits(self, name: str) -> Path:
        return self.out / f"sub-{self.patient}" / "anat" / f"sub-{self.patient}_space-patient_{name}"

    @property
    def picture(self) -> Path:
        """The overview picture."""
        return self.out / f"sub-{self.patient}" / "figures" / f"{self.stem}_lesions.png"


@dataclass(frozen=True)
class PatientFiles:
    """The files of one patient under the output folder."""

    out: Path
    patient: str

    @property
    def report(self) -> Path:
        """The patient's page."""
        return self.out / f"sub-{self.patient}.html"

    @property
    def log(self) -> Path:
        """The log file."""
        return self.out / "logs" / f"sub-{self.patient}.log"

    @property
    def timings(self) -> Path:
        """The seconds that each stage took when the patient was last segmented."""
        return self.log.with_name(f"sub-{self.patient}_timings.tsv")

    @property
    def folder(self) -> Path:
        """Where all else lies."""
        return self.out / f"sub-{self.patient}"

    @property
    def visit_table(self) -> Path:
        """The patient's own rows of the cohort table."""
        return self.table("visits")

    def table(self, name: str) -> Path:
        """A table of that name."""
        return self.folder / f"sub-{self.patient}_{name}.tsv"

    def visit(self, label: str) -> Place:
        """The files of a visit."""
        return Place(self.out, self.patient, label)

    def relative(self, paths: Iterable[Path]) -> set[str]:
        """Paths as records have them: below the output folder, with slashes."""
        return {path.relative_to(self.out).as_posix() for path in paths}


@dataclass(frozen=True)
class VisitOutput:
    """What is written for one visit; `orig` is the grid of its own FLAIR, `patient` the patient's space.

    `from_patient` takes points of the patient's space to points of each image (RAS+ mm). `extras` are those of EXTRAS
    that the models offer, (K, X, Y, Z) in the patient's space; `parts` are labels of `atlas.parts.Part`, or
    None.
    """

    orig_mask: Volume
    orig_probability: Volume
    patient_mask: Volume
    patient_probability: Volume
    brain: Volume
    patient_images: Mapping[str, Volume]
    from_patient: Mapping[str, Affine]
    facts: Mapping[str, Any]
    extras: Mapping[str, Array] = field(default_factory=dict)
    parts: Volume | None = None


def visit_files(place: Place, contrasts: Sequence[str], extras: Iterable[str] = (), parts: bool = True) -> list[Path]:
    """Every file `write_visit` and `write_masks` write, with these outputs of EXTRAS, and the picture."""
    names = [MASK, AUTOMATIC, "space-orig_label-L_probseg", PATIENT_MASK, PATIENT_AUTOMATIC, PATIENT_PROBABILITY]
    names += [f"space-patient_{contrast}" for contrast in contrasts]
    names += [EXTRAS[extra].name for extra in extras]
    images = [place.anat(f"{name}{suffix}") for name in names for suffix in (".nii.gz", ".json")]
    transforms = [place.transform(_source(c), suffix) for c in contrasts for suffix in (".txt", ".json")]
    own = [place.parts(), place.parts(".json")] if parts else []
    return [*images, *transforms, place.picture, place.brain(), place.brain(".json"), *own]


def write_visit(place: Place, visit: Visit, output: VisitOutput, raw: Path | None) -> None:
    """Write automatic masks, probabilities, images in the patient's space and transforms, each with its sidecar."""
    flair = bids_uri(visit.images["FLAIR"], raw)
    sources = [bids_uri(path, raw) for path in visit.images.values()]
    masks = [bids_uri(visit.brain_mask, raw)] if visit.brain_mask else []
    lesions = {"Type": "Lesion", "Sources": [*sources, *masks], **output.facts}
    _write(place, AUTOMATIC, output.orig_mask, {**lesions, "SpatialReference": flair})
    _write(place, "space-orig_label-L_probseg", output.orig_probability, {**lesions, "SpatialReference": flair})
    space = own_uri(place, "space-patient_FLAIR")
    _write(place, PATIENT_AUTOMATIC, output.patient_mask, {**lesions, "SpatialReference": space})
    _write(place, PATIENT_PROBABILITY, output.patient_probability, {**lesions, "SpatialReference": space})
    write_volume(place.brain(), output.brain)
    write_json(place.brain(".json"), {"Type": "Brain", "Sources": sources, "SpatialReference": space})
    if output.parts is not None:
        write_volume(place.parts(), output.parts)
        labels = {str(int(part)): part.name.lower().replace("_", " ") for part in Part}
        write_json(place.parts(".json"), {"Labels": labels, "SpatialReference": space})
    for name, values in output.extras.items():
        extra = EXTRAS[name]
        extra.write(place.anat(f"{extra.name}.nii.gz"), values, output.patient_mask.grid)
        own = {**lesions, "Type": extra.type, "SpatialReference": space, "Description": extra.description}
        write_json(place.anat(f"{extra.name}.json"), own)
    for contrast, volume in output.patient_images.items():
        own = {"Sources": [bids_uri(visit.images[contrast], raw)], "SkullStripped": True, "SpatialReference": space}
        _write(place, f"space-patient_{contrast}", volume, own)
    for contrast, transform in output.from_patient.items():
        _write_transform(place, contrast, transform, bids_uri(visit.images[contrast], raw), space)


def write_masks(place: Place, orig: Volume, patient: Volume, facts: Mapping[str, Any]) -> None:
    """Write the masks that count, with the sidecars of the automatic ones and these further facts."""
    for name, automatic, mask in ((MASK, AUTOMATIC, orig), (PATIENT_MASK, PATIENT_AUTOMATIC, patient)):
        _write(place, name, mask, {**read_sidecar(place, automatic), **facts})


def read_sidecar(place: Place, name: str) -> dict[str, Any]:
    """What an output's JSON says; OutputError where it cannot be read."""
    path = place.anat(f"{name}.json")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}): run the patient again without --reports-only.") from error
    return content


def own_uri(place: Place, name: str) -> str:
    """BIDS URI of an image among the outputs."""
    return f"bids::{place.anat(f'{name}.nii.gz').relative_to(place.out).as_posix()}"


def bids_uri(path: Path, raw: Path | None) -> str:
    """`bids:raw:sub-X/...` inside the dataset `raw`, a file URI elsewhere."""
    if raw and path.resolve().is_relative_to(raw.resolve()):
        return f"bids:raw:{path.resolve().relative_to(raw.resolve()).as_posix()}"
    return path.resolve().as_uri()


def prepare_output(out: Path, raw: Path | None, description: Mapping[str, Any]) -> None:
    """Make sure that the folder can be written and is ours, and describe the dataset in it.

    Raises
    ------
    OutputError
        It lies inside the input (other than under `derivatives`), holds something else or the results of another
        dataset, or cannot be written.
    """
    if raw:
        _require_outside(out.resolve(), raw.resolve())
    if out.is_dir() and any(_visible(out)):
        _require_ours(out, raw)
    write_json(out / DESCRIPTION, _description(raw))
    write_text(out / "README", README)
    write_text(out / ".bidsignore", "".join(f"{line}\n" for line in IGNORED))
    write_json(out / "settings.json", description)


def require_own_results(out: Path, raw: Path) -> None:
    """Raise OutputError unless `out` holds results that lesiondelta made of the dataset `raw`.

    Those of loose files belong to no dataset: the folder itself stands for it.
    """
    if not out.is_dir():
        raise OutputError(f"{out} is not a folder: give one with results of `lesiondelta run`.")
    _require_ours(out, None if out.resolve() == raw.resolve() else raw)


def _require_outside(out: Path, raw: Path) -> None:
    if raw.is_relative_to(out):
        raise OutputError(f"The output folder {out} is or contains the input {raw}: give another one.")
    if out.is_relative_to(raw) and out.relative_to(raw).parts[0] != "derivatives":
        raise OutputError(
            f"The output folder {out} lies inside the input: give one outside, or under {raw / 'derivatives'}."
        )
    if out == raw / "derivatives":
        raise OutputError(f"Give the results a folder of their own, such as {out / 'lesiondelta'}.")


def _require_ours(out: Path, raw: Path | None) -> None:
    try:
        earlier = json.loads((out / DESCRIPTION).read_text(encoding="utf-8-sig"))
        ours = earlier["GeneratedBy"][0]["Name"] == "lesiondelta"
        source = earlier.get("SourceDatasets", [{"URL": LOOSE_FILES}])[0]["URL"]
    except (OSError, ValueError, LookupError, TypeError):
        ours, source = False, LOOSE_FILES
    if not ours:
        raise OutputError(f"{out} holds something else: give an empty folder, or one that lesiondelta has written.")
    moved_along = raw is not None and out.resolve().is_relative_to(raw.resolve())
    if source != (raw.resolve().as_uri() if raw else LOOSE_FILES) and not moved_along:
        raise OutputError(
            f"{out} holds results of {source}: give another folder (or, if that dataset has only moved, write its new "
            f"place into {out / DESCRIPTION})."
        )


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _description(raw: Path | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "Name": "Lesion masks of MS patients over time",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "lesiondelta", "Version": __version__}],
    }
    if raw:
        content["SourceDatasets"] = [{"URL": raw.resolve().as_uri()}]
        content["DatasetLinks"] = {"raw": raw.resolve().as_uri()}
    return content


def _write(place: Place, name: str, volume: Volume, sidecar: Mapping[str, Any]) -> None:
    write_volume(place.anat(f"{name}.nii.gz"), volume)
    write_json(place.anat(f"{name}.json"), sidecar)


def _write_transform(place: Place, contrast: str, transform: Affine, moving: str, space: str) -> None:
    source = _source(contrast)
    write_itk_transform(place.transform(source, ".txt"), transform)
    sidecar = {
        "Type": "affine",
        "Moving": moving,
        "Fixed": space,
        "Description": "ITK convention: takes points of the patient's space to points of the moving image, so that "
        "antsApplyTransforms with it resamples the moving image into the patient's space.",
    }
    write_json(place.transform(source, ".json"), sidecar)


def _source(contrast: str) -> str:
    """`orig` is the FLAIR's own space, on which the visit's masks lie."""
    return "orig" if contrast == "FLAIR" else contrast
