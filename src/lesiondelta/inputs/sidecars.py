"""What the JSON sidecars of a BIDS dataset say of an image: the one beside it, and those of the folders above."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesiondelta.cohort import CONTRASTS
from lesiondelta.errors import short
from lesiondelta.files import parsed_json, small_content
from lesiondelta.inputs.bids_names import parse_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's fields, and what an image's name must hold to be told of: all of `entities`, and the suffix."""

    entities: frozenset[str]
    suffix: str
    fields: Mapping[str, Any]


SidecarsOf = Callable[[Path], Sequence[Sidecar]]
"""Of a folder: `sidecars_in`, or what remembers its answers."""


def sidecars_in(folder: Path) -> list[Sidecar]:
    """The sidecars of T1w and FLAIR in a folder, those of few entities first; the log says what cannot be read."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")
    except OSError:
        return []
    named = [(path, path.stem.split("_")) for path in paths]
    found = [
        Sidecar(frozenset(entities), suffix, _read(path)) for path, (*entities, suffix) in named if suffix in CONTRASTS
    ]
    return sorted(found, key=lambda one: len(one.entities))


def said_of(image: Path, dataset: Path, sidecars: SidecarsOf) -> dict[str, Any]:
    """The fields that apply to an image of a dataset; the nearer and the more specific sidecar counts."""
    file = parse_name(image)
    if file is None:
        return {}
    entities = {f"{name}-{label}" for name, label in file.entities.items()}
    folders = [dataset / above for above in reversed(image.relative_to(dataset).parents)]
    told = (one for folder in folders for one in sidecars(folder))
    return {
        name: value
        for one in told
        if one.suffix == file.suffix and one.entities <= entities
        for name, value in one.fields.items()
    }


def _read(path: Path) -> Mapping[str, Any]:
    """Names of fields are plain ASCII, so that an old encoding of their values does no harm."""
    try:
        content = parsed_json(small_content(path).decode("utf-8-sig", errors="replace"))
    except (OSError, ValueError) as error:
        log.warning("%s is not read (%s): correct it, or take it away.", path, short(error))
        return {}
    return content if isinstance(content, dict) else {}
