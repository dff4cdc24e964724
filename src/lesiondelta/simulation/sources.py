"""Real people and real lesions to simulate from, found in folders."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesiondelta.errors import CohortError, ImageError
from lesiondelta.files import entries, files_below, sha256
from lesiondelta.images import Affine, Volume, read_image, read_mask
from lesiondelta.preprocessing.regions import atlas_to
from lesiondelta.simulation.anatomy import Anatomy, image_anatomy
from lesiondelta.simulation.shapes import read_shapes

log = logging.getLogger(__name__)

T1W, FLAIR, MASK = (re.compile(rf"(.+)_{what}\.nii(\.gz)?", re.IGNORECASE) for what in ("T1w", "FLAIR", "mask"))


@dataclass(frozen=True)
class Person:
    """Images and lesion mask of a real person, skull-stripped, on one isotropic grid."""

    t1w: Path
    flair: Path
    lesions: Path

    @property
    def identity(self) -> str:
        """Hash of the three files."""
        return " ".join(sha256(path) for path in (self.t1w, self.flair, self.lesions))

    def anatomy(self, seed: int) -> Anatomy:
        """With the lesions and without; RegistrationError where the images show no stripped brain."""
        images = read_image(self.t1w), read_image(self.flair), read_mask(self.lesions)
        return image_anatomy(*images, seed, register=lambda t1w: _registered(self, t1w))


_MATRICES: dict[Person, Affine] = {}


def _registered(person: Person, t1w: Volume) -> Affine:
    """The registration of the atlas to a person, which takes some seconds, made once."""
    if person not in _MATRICES:
        _MATRICES[person] = atlas_to(t1w)
    return _MATRICES[person]


def find_people(folder: Path) -> list[Person]:
    """Everybody in a folder with NAME_T1w, NAME_FLAIR and one NAME_..._mask beside each other, as .nii or .nii.gz.

    A mask with `brain` in its name is not one of lesions. A person without lesions needs an empty mask: lesions that
    no mask marks would be simulated as healthy tissue. FLAIRs and masks beside which there is no T1w are named in a
    warning.
    """
    found = []
    for t1w in _files(folder, T1W):
        stem = _stem(t1w)
        beside = _files_of(stem, t1w.parent)
        flairs = [path for path in beside if (named := FLAIR.fullmatch(path.name)) and named[1] == stem]
        masks = [path for path in beside if _is_lesion_mask(path, stem)]
        if len(flairs) != 1 or len(masks) != 1:
            raise CohortError(
                f"{t1w} needs one {stem}_FLAIR and one {stem}_..._mask beside it, and has {len(flairs)} and "
                f"{len(masks)}."
            )
        found.append(Person(t1w, flairs[0], masks[0]))
    if not found:
        raise CohortError(f"{folder} holds no NAME_T1w.nii.gz: give a folder with T1w, FLAIR and lesion masks.")
    _warn_of_others(folder, found)
    return found


def _warn_of_others(folder: Path, people: Sequence[Person]) -> None:
    used = {path for person in people for path in (person.t1w, person.flair, person.lesions)}
    images = [*_files(folder, FLAIR), *(path for path in _files(folder, MASK) if _is_lesion_mask(path))]
    others = [str(path) for path in images if path not in used]
    if others:
        named = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
        log.warning("not used, as there is no T1w of the same name beside them (%d): %s", len(others), named)


def _is_lesion_mask(path: Path, stem: str = "") -> bool:
    """Whether it is called a mask, and, after the name of the person, not one of the brain."""
    return bool(MASK.fullmatch(path.name)) and "brain" not in path.name[len(stem) :].lower()


def _stem(image: Path) -> str:
    """NAME of NAME_T1w or NAME_FLAIR, nothing for other files."""
    named = T1W.fullmatch(image.name) or FLAIR.fullmatch(image.name)
    return named[1] if named else ""


def _files_of(stem: str, folder: Path) -> list[Path]:
    """Files named STEM_..., but for those of somebody whose name is longer and begins in the same way."""
    paths = [path for path in entries(folder) if path.name.startswith(f"{stem}_")]
    others = [f"{other}_" for path in paths if (other := _stem(path)) and other != stem]
    return [path for path in paths if not path.name.startswith(tuple(others))]


def find_lesion_masks(folder: Path) -> list[Path]:
    """Every ..._mask of a folder; each is read once, and has to hold lesions on a 1 mm grid."""
    masks = _files(folder, MASK)
    if not masks:
        raise CohortError(f"{folder} holds no ..._mask.nii.gz: give a folder with lesion masks in MNI152 space.")
    for mask in masks:
        if not read_shapes(mask):
            raise ImageError(f"{mask} holds no lesion of 4 voxels or more: take it out of the folder.")
    return masks


def _files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        raise CohortError(f"{folder} is not a folder.")
    return [path for path in files_below(folder, "*.nii*") if names.fullmatch(path.name)]
