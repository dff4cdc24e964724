"""BIDS names of images: taken apart, listed in natural order, and chosen by a filter file as fMRIPrep's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError, short
from lesiondelta.files import entries, parsed_json, small_content

ENTITY = re.compile(r"([a-z0-9]+)-([a-zA-Z0-9+]+)")
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
IMAGE = re.compile(r"\.(nii(\.gz)?|img(\.gz)?|mgz|mgh|nrrd|mha)$", re.IGNORECASE)
"""What images are stored as, here or elsewhere."""
SPELLINGS = {
    "T1w": re.compile(r"(?<![a-z0-9])(t1(?!map|rho)|mprage)", re.IGNORECASE),
    "FLAIR": re.compile("flair", re.IGNORECASE),
}
"""How the contrasts are spelled in names that are not BIDS names."""
NO_IMAGE = re.compile("mask|seg|label|lesion", re.IGNORECASE)
LESION_LABELS = ("L", "lesion")
"""What `label` says of a mask of lesions."""
MP2RAGE = re.compile(r"_UNIT1\.nii(\.gz)?$")
LONG_NAMES = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "ceagent": "ce", "reconstruction": "rec",
    "direction": "dir", "inversion": "inv", "description": "desc", "resolution": "res", "modality": "mod",
    "hemisphere": "hemi", "density": "den", "segmentation": "seg", "staining": "stain", "tracer": "trc",
    "processing": "proc", "nucleus": "nuc", "volume": "voi",
}  # fmt: skip
ENTITIES = {
    *LONG_NAMES.values(), "run", "echo", "flip", "mt", "part", "proc", "hemi", "space", "split", "chunk", "label",
    "task", "sample", "recording", "tracksys", "atlas", "scale", "cohort", "mode", "from", "to", "suffix",
    "extension",
}  # fmt: skip
"""What a filter may name, beside the long names."""
Filters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class BidsFile:
    """A file name taken apart: `entities` by their short names, and the suffix."""

    path: Path
    entities: Mapping[str, str]
    suffix: str


def parse_name(path: Path) -> BidsFile | None:
    """Take a NIfTI file name apart; None where it is not a BIDS name.

    Such a name begins with `sub-`, which no program has put letters before, and spells each entity once, in small
    letters and by its short name; `run` is a number.
    """
    name = NIFTI.sub("", path.name)
    *parts, suffix = name.split("_")
    matches = [ENTITY.fullmatch(part) for part in parts]
    entities = {match[1]: match[2] for match in matches if match}
    if name == path.name or len(entities) < len(parts) or not suffix.isalnum():
        return None
    fits = next(iter(entities), "") == "sub" and not LONG_NAMES.keys() & entities.keys()
    return BidsFile(path, entities, suffix) if fits and entities.get("run", "0").isdecimal() else None


def natural(label: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which 2 comes before 10."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.findall(r"\d+|\D+", label))


def bids_files(folder: Path) -> list[BidsFile]:
    """The images of one folder, in natural order."""
    paths = entries(folder) if folder.is_dir() else []
    named = [path for path in paths if NIFTI.search(path.name)]
    return [file for path in sorted(named, key=lambda path: natural(path.name)) if (file := parse_name(path))]


def near_names(folder: Path, contrast: str) -> list[Path]:
    """Files of one folder that look like images of a contrast, but whose names or formats are not those of BIDS."""
    return [path for path in looks_like(folder, contrast) if not is_image_of(path, contrast)]


def looks_like(folder: Path, contrast: str) -> list[Path]:
    """Files of one folder that are images of a contrast, or whose names say so in another way."""
    paths = entries(folder) if folder.is_dir() else []
    return [path for path in paths if is_image_of(path, contrast) or _looks_like(path, contrast)]


def spells(folder: Path, contrast: str) -> list[Path]:
    """Files of one folder whose names say a contrast anywhere: `acq-flair_T2w`, and MP2RAGE's `UNIT1` for a T1w."""
    paths = [path for path in (entries(folder) if folder.is_dir() else []) if _is_visible_image(path)]
    return [
        path
        for path in paths
        if not NO_IMAGE.search(path.name)
        and not any(is_image_of(path, one) for one in CONTRASTS)
        and (SPELLINGS[contrast].search(path.name) or (contrast == "T1w" and MP2RAGE.search(path.name)))
    ]


def is_image_of(path: Path, contrast: str) -> bool:
    """Whether the name is BIDS's for an image of this contrast."""
    file = parse_name(path)
    return file is not None and file.suffix == contrast


def _looks_like(path: Path, contrast: str) -> bool:
    *parts, last = IMAGE.sub("", path.name).split("_")
    rest = "_".join([*(part for part in parts if not ENTITY.fullmatch(part)), last])
    return _is_visible_image(path) and bool(SPELLINGS[contrast].search(rest)) and not NO_IMAGE.search(rest)


def _is_visible_image(path: Path) -> bool:
    return bool(IMAGE.search(path.name)) and not path.name.startswith(".")


def read_filters(path: Path) -> Filters:
    """Read a filter file as fMRIPrep's: `{"t1w": {"acquisition": "mprage", "run": 1}, "flair": {"rec": null}}`.

    A value is a label, a list of labels, `null` (the entity must be absent) or `"*"` (it must be present).
    """
    try:
        content = parsed_json(small_content(path))  # which knows its encodings
    except (OSError, ValueError) as error:
        raise CohortError(
            f"The filter file {path} cannot be read as JSON ({short(error)}): correct it, such as "
            '{"t1w": {"run": 1}}.'
        ) from error
    known = {contrast.lower(): contrast for contrast in CONTRASTS}
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise CohortError(f'The filter file {path} must look like {{"t1w": {{"run": 1}}, "flair": {{"rec": null}}}}.')
    filters = {
        known[name.lower()]: {LONG_NAMES.get(key, key): value for key, value in entities.items() if key != "datatype"}
        for name, entities in content.items()
        if name.lower() in known  # filters of other tools may share the file
    }
    if content and not filters:
        raise CohortError(
            f"The filter file {path} names {short(', '.join(content))}, but neither t1w nor flair: correct it."
        )
    if unknown := {key for entities in filters.values() for key in entities} - ENTITIES:
        raise CohortError(
            f"The filter file {path} names {short(', '.join(sorted(unknown)))}, which is no BIDS entity: choose from "
            f"{', '.join(sorted({*LONG_NAMES, *ENTITIES}))}."
        )
    return filters


def fits_filter(file: BidsFile, entities: Mapping[str, Any]) -> bool:
    """Whether a file has all entities that a filter names, as `read_filters` describes them."""
    ending = "nii.gz" if file.path.suffix.lower() == ".gz" else "nii"
    own = {**file.entities, "suffix": file.suffix, "extension": ending}
    return all(_fits(own.get(name), _plain(value)) for name, value in entities.items())


def _fits(found: str | None, wanted: Any) -> bool:  # noqa: ANN401  (JSON)
    if wanted is None or found is None:
        return wanted is None and found is None
    if wanted == "*":
        return True
    choices = {str(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
    return found in choices or (found.isdecimal() and found.lstrip("0") in {value.lstrip("0") for value in choices})


def _plain(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """Without the dot that an extension may begin with."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.lstrip(".") if isinstance(value, str) else value
