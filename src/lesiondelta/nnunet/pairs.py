"""Pairs formed when a training patch is read: a patient is drawn, then one of its visits, then that visit's prior.

Imports nnunetv2: import this module inside `environment` only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from lesiondelta.cohort import prior_index
from lesiondelta.errors import CohortError
from lesiondelta.images import Array
from lesiondelta.methods import PriorPolicy
from lesiondelta.nnunet.dataset import KNOWN, places_path


class Joined:
    """Arrays (C, X, Y, Z) joined along the channels, of which only the part that is sliced gets decompressed."""

    def __init__(self, *parts: Any) -> None:  # noqa: ANN401  (blosc2's arrays)
        self.parts = parts
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        self.ndim = len(self.shape)
        self.dtype = parts[0].dtype

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        """Cut the same box out of every part; the channel axis, which comes first, must be taken whole."""
        return np.concatenate([np.asarray(part[index]) for part in self.parts])


class PairDataset(nnUNetDatasetBlosc2):
    """Training patients; a case is a random visit of the patient, joined with its prior for longitudinal methods.

    nnU-Net's loader draws its identifiers uniformly: since these are patients, patients are drawn uniformly, however
    many visits each of them has.
    """

    def __init__(
        self,
        folder: Path,
        patients: Mapping[str, Sequence[str]],
        *,
        longitudinal: bool,
        labels: Literal["current", "both"] = "current",
        prior: PriorPolicy = "previous",
        self_prior_share: float = 0.0,
    ) -> None:
        super().__init__(str(folder), sorted(patients))
        _require_places(folder, [visit for visits in patients.values() for visit in visits])
        self.patients = patients
        self.longitudinal = longitudinal
        self.labels = labels
        self.prior = prior
        self.self_prior_share = self_prior_share

    def load_case(self, identifier: str) -> tuple[Joined, Any, None, dict[str, Any]]:
        """Data (C or 2C, X, Y, Z), labels (1, or with the prior's 2, X, Y, Z), None, the current lesions' places.

        Nothing is unpickled: whoever can write the folder must not run code in the trainer.
        """
        visits = self.patients[identifier]
        current = int(np.random.randint(len(visits)))
        data, labels = self._open(visits[current]), self._open(f"{visits[current]}_seg")
        with np.load(places_path(Path(self.source_folder), visits[current]), allow_pickle=False) as places:
            properties = {"class_locations": {1: places["lesion"], KNOWN: places["known"]}}
        if not self.longitudinal:
            return Joined(data), labels, None, properties
        partner = draw_prior(current, len(visits), self.prior, self.self_prior_share)
        if self.labels == "both":
            labels = Joined(labels, self._open(f"{visits[partner]}_seg"))
        return Joined(data, self._open(visits[partner])), labels, None, properties

    def _open(self, name: str) -> Any:  # noqa: ANN401
        path = str(Path(self.source_folder) / f"{name}.b2nd")
        return blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1}, **self.mmap_kwargs)


def _require_places(folder: Path, visits: Sequence[str]) -> None:
    for visit in visits:
        if not places_path(folder, visit).is_file():
            raise CohortError(
                f"{places_path(folder, visit)} is missing: these training data were stored by an earlier version, "
                f"or are damaged. Delete the folder {folder.resolve().parents[2]}; the same command stores them again."
            )


def draw_prior(current: int, visits: int, policy: PriorPolicy, self_prior_share: float = 0.0) -> int:
    """Index of the visit that `current` is compared with in training.

    The first visit's partner is always the next visit under "previous" and "baseline"; a single visit's is itself.
    """
    if visits == 1 or (self_prior_share > 0 and np.random.random() < self_prior_share):
        return current
    if policy == "random":
        other = int(np.random.randint(visits - 1))
        return other + (other >= current)
    return prior_index(current, visits, policy)
