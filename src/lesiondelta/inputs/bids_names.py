"""BIDS names of images: taken apart, listed in natural order, and chosen by a filter file as fMRIPrep's."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import CohortError
from lesiondelta.files import entries

ENTITY = re.compile(r"([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)")
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
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
    """Take a NIfTI file name apart; None where it is not a BIDS name."""
    name = NIFTI.sub("", path.name)
    *parts, suffix = name.split("_")
    matches = [ENTITY.fullmatch(part) for part in parts]
    if name == path.name or not parts or not all(matches) or not suffix.isalnum():
        return None
    return BidsFile(path, {match[1]: match[2] for match in matches if match}, suffix)


def natural(label: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which 2 comes before 10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", label))


def bids_files(folder: Path) -> list[BidsFile]:
    """The images of one folder, in natural order."""
    paths = entries(folder) if folder.is_dir() else []
    named = [path for path in paths if NIFTI.search(path.name)]
    return [file for path in sorted(named, key=lambda path: natural(path.name)) if (file := parse_name(path))]


def read_filters(path: Path) -> Filters:
    """Read a filter file as fMRIPrep's: `{"t1w": {"acquisition": "mprage", "run": 1}, "flair": {"rec": null}}`.

    A value is a label, a list of labels, `null` (the entity must be absent) or `"*"` (it must be present).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CohortError(
            f'The filter file {path} cannot be read as JSON ({error}): correct it, such as {{"t1w": {{"run": 1}}}}.'
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
        raise CohortError(f"The filter file {path} names {', '.join(content)}, but neither t1w nor flair: correct it.")
    if unknown := {key for entities in filters.values() for key in entities} - ENTITIES:
        raise CohortError(
            f"The filter file {path} names {', '.join(sorted(unknown))}, which is no BIDS entity: choose from "
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
    return found in choices or (found.isdigit() and found.lstrip("0") in {value.lstrip("0") for value in choices})


def _plain(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """Without the dot that an extension may begin with."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.lstrip(".") if isinstance(value, str) else value
