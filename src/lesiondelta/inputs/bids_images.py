"""Which files in the folder `anat` of a visit are its images, brain mask and reference, and what is doubtful there."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError, short
from lesiondelta.inputs.acquisition import contradiction, of_sidecar, plain_words
from lesiondelta.inputs.bids_folders import images_beside
from lesiondelta.inputs.bids_names import (
    LESION_LABELS,
    MP2RAGE,
    NIFTI,
    BidsFile,
    Filters,
    bids_files,
    fits_filter,
    near_names,
    parse_name,
    spells,
)
from lesiondelta.inputs.sidecars import SidecarsOf, said_of
from lesiondelta.inputs.studies import ENHANCED, NOT_ENHANCED, names_an_agent

NATIVE = {None, "orig", "T1w", "FLAIR"}
"""What `space` says of a brain mask that lies on its images; those of templates do not."""
OF_REFERENCE = {"sub", "ses", "space", "label"}
NEXT_WORD = re.compile(r"(?<=\w)(?=[A-Z][a-z])")
"""Where a word begins within a label, as in `mprageGd`."""
MAGNITUDE = "mag"
BRAIN_MASK = re.compile(r"brain.?mask|label-brain", re.IGNORECASE)
"""How a brain mask is called where it is not called `desc-brain_mask`."""


def doubts_of_images(images: Mapping[str, Path], dataset: Path, sidecars: SidecarsOf) -> Iterator[str]:
    """Which images were acquired with a contrast agent, as no model here has seen one, or as another contrast is.

    And which files beside them may be the image that was meant.
    """
    for contrast, path in images.items():
        fields, file = said_of(path, dataset, sidecars), parse_name(path)
        agent = fields.get("ContrastBolusIngredient") or (_agent_of(file) if file else None)
        if agent and names_an_agent(plain_words(str(agent))):
            yield f"the {contrast} was acquired with a contrast agent ({short(agent)})"
        yield from contradiction(contrast, path.name, "sidecar", of_sidecar(fields))
        for other in images_beside(path.parent, contrast):
            yield f"{other} was not considered as the {contrast}, since it does not lie in {path.parent.name}"
        for other in near_names(path.parent, contrast):
            if _is_made_of(other, path):
                continue
            yield f"{other.name} was not considered as the {contrast}, since that is not the name of a BIDS image"


def _agent_of(file: BidsFile) -> str | None:
    """What of a name says a contrast agent: `ce-gad`, and `acq-postGd` or `acq-mprageGd` too; `acq-preGd` does not."""
    if "ce" in file.entities:
        return file.entities["ce"]
    others = [label for entity, label in file.entities.items() if entity not in ("sub", "ses", "run")]
    return next((label for label in others if _says_agent(label)), None)


def _says_agent(label: str) -> bool:
    words = plain_words(NEXT_WORD.sub(" ", label))
    return bool(ENHANCED.search(NOT_ENHANCED.sub(" ", words)))


def _is_made_of(other: Path, image: Path) -> bool:
    """Whether a file is called as the image with letters before it, as SPM calls what it makes of one."""
    made, of = NIFTI.sub("", other.name), NIFTI.sub("", image.name)
    return made != of and made.endswith(of)


def images_in(anat: Path, filters: Filters) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """The images of a visit by contrast, why a T1w is absent, and notes; CohortError where they are not clear.

    A T1w may be absent where nothing there may be meant as one, a FLAIR may not.
    """
    own, images, notes = _own_files(anat), {}, []
    files = [file for file in own if file.entities.get("part", MAGNITUDE) == MAGNITUDE]
    missing = [contrast for contrast in CONTRASTS if not _candidates(files, contrast, filters)]
    if parts := ", ".join(
        f.path.name for contrast in missing for f in _candidates(own, contrast, {}) if f not in files
    ):
        raise CohortError(
            f"{anat} has no magnitude image of {joined(missing)}, only {parts}: add it, or leave the visit out."
        )
    filtered = [contrast for contrast in missing if _candidates(files, contrast, {})]
    if filtered and filtered == missing:
        names = ", ".join(f.path.name for contrast in filtered for f in _candidates(files, contrast, {}))
        raise CohortError(
            f"{anat}: none of {names} fits the filter for {joined(filtered)}: correct --bids-filter-file."
        )
    if missing and (missing != ["T1w"] or filtered or images_beside(anat, "T1w") or spells(anat, "T1w")):
        raise CohortError(_said_of_missing(anat, missing))
    absent = {contrast: _said_of_missing(anat, [contrast]) for contrast in missing}
    for contrast in (contrast for contrast in CONTRASTS if contrast not in absent):
        images[contrast], note = _choose(_candidates(files, contrast, filters), contrast)
        notes += note
    return images, absent, notes


def _said_of_missing(anat: Path, contrasts: Sequence[str]) -> str:
    """What is there in place of images, and what to do."""
    lacking = f"{anat} has no {joined(contrasts)} image"
    if beside := images_beside(anat, *contrasts):
        return f"{lacking}: move {joined(map(str, beside))} to the folder anat of its visit."
    near = [path for contrast in contrasts for path in spells(anat, contrast)]
    names = ", ".join(path.name for path in near)
    if any(MP2RAGE.search(path.name) for path in near):
        return (
            f"{lacking}: {names} is of MP2RAGE, whose background is noise. Remove that noise and save the image as "
            "..._T1w.nii.gz, or leave the visit out."
        )
    if near:
        wanted = " or ".join(f"..._{contrast}.nii.gz" for contrast in contrasts)
        return (
            f"{lacking}: {names} may be meant, and is not a BIDS name of one. Rename or convert it to {wanted}, or "
            "leave the visit out."
        )
    if anat.is_dir():
        return f"{lacking}: add it, or leave the visit out."
    if anat.is_symlink():
        return f"{anat} leads nowhere: get it (`datalad get`), correct the link, or leave the visit out."
    what = f"{anat} does not exist" if anat.parent.is_dir() else f"{anat.parent} is not a folder"
    return f"{anat.parent} has no images: {what}."


def _own_files(anat: Path) -> list[BidsFile]:
    """The images of sub-X[/ses-Y]/anat; CohortError for one whose name says another patient or session."""
    home = anat.parent
    folders = (home.parent.name, home.name) if home.name.startswith("ses-") else (home.name, "")
    sub, ses = (name.partition("-")[2] for name in folders)
    files = bids_files(anat)
    for file in files:
        if file.entities["sub"] != sub or file.entities.get("ses", ses) != ses:
            raise CohortError(
                f"{file.path} is in the folder of {'/'.join(filter(None, folders))}, and its name says something else: "
                "move it to where it belongs, or rename it."
            )
    return files


def _candidates(files: Sequence[BidsFile], contrast: str, filters: Filters) -> list[BidsFile]:
    return [f for f in files if f.suffix == contrast and fits_filter(f, filters.get(contrast, {}))]


def _choose(candidates: Sequence[BidsFile], contrast: str) -> tuple[Path, list[str]]:
    plain = [file for file in candidates if _agent_of(file) is None] or list(candidates)
    others = [{name: value for name, value in file.entities.items() if name != "run"} for file in plain]
    runs = [int(file.entities.get("run", "0")) for file in plain]
    names = ", ".join(file.path.name for file in plain)
    if len({tuple(sorted(file.entities.items())) for file in plain}) < len(plain):
        raise CohortError(f"{plain[0].path.parent} has one {contrast} image twice ({names}): remove all but one.")
    if any(other != others[0] for other in others) or len(set(runs)) < len(runs):
        raise CohortError(
            f"{plain[0].path.parent} has {len(plain)} {contrast} images ({names}): choose one with --bids-filter-file."
        )
    chosen = max(plain, key=lambda file: int(file.entities.get("run", "0"))).path
    reasons = {"no contrast agent": len(plain) < len(candidates), "last run": len(plain) > 1}
    why = ", ".join(reason for reason, decided in reasons.items() if decided)
    note = f"{chosen.name} chosen out of {len(candidates)} {contrast} images ({why})"
    return chosen, [note] if len(candidates) > 1 else []


def brain_mask_in(anat: Path) -> tuple[Path | None, list[str]]:
    """The brain mask on the images, rather one that names no space, and notes on others that may be meant."""
    files = [file for file in _own_files(anat) if BRAIN_MASK.search(file.path.name)]
    native = [
        f
        for f in files
        if f.suffix == "mask" and f.entities.get("desc") == "brain" and f.entities.get("space") in NATIVE
    ]
    masks = [file.path for file in native if "space" not in file.entities] or [file.path for file in native]
    if len(masks) > 1:
        names = ", ".join(path.name for path in masks)
        raise CohortError(f"{anat} has {len(masks)} brain masks ({names}): keep the one on the grid of the FLAIR.")
    others = ", ".join(file.path.name for file in files if not masks)
    said = f"{anat.parent.name}: not used as brain mask, as the name is not ..._desc-brain_mask.nii.gz: {others}"
    return (masks[0], []) if masks else (None, [said] if others else [])


def reference_in(anat: Path) -> tuple[Path | None, list[str]]:
    """The reference mask in a folder, and notes on others that may be meant; CohortError where there are two."""
    files = [file for file in _own_files(anat) if file.suffix == "mask" and file.entities.get("label") in LESION_LABELS]
    found = [f.path for f in files if f.entities.get("space") == "orig" and f.entities.keys() <= OF_REFERENCE]
    if len(found) > 1:
        raise CohortError(f"{anat} has several references ({', '.join(path.name for path in found)}): keep one.")
    others = "" if found else ", ".join(file.path.name for file in files)
    said = f"{anat}: not used as reference, as the name is not ..._space-orig_label-L_mask.nii.gz: {others}"
    return (found[0] if found else None), [said] if others else []


def joined(words: Iterable[str]) -> str:
    """In an enumeration."""
    return " and ".join(words)
