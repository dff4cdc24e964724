"""Lesions by exported networks, whose logits are averaged: each visit is seen with its prior."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesiondelta.evaluation.instances import lesion_mask
from lesiondelta.images import Array
from lesiondelta.inference.model import Model
from lesiondelta.inference.segmenter import SegmentedVisit, SegmenterFacts, Sidecar, Thresholds, counted
from lesiondelta.inference.window import choose_device, extra_outputs, lesion_probabilities, mirrors
from lesiondelta.inputs.checks import CheckedPatient
from lesiondelta.outputs.derivatives import EXTRAS
from lesiondelta.preprocessing.preparation import PreparedPatient, PreparedVisit
from lesiondelta.settings import SegmentationSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkSegmenter:
    """One or several exported models of one kind; see `Segmenter`."""

    models: tuple[Model, ...]
    settings: SegmentationSettings

    @property
    def facts(self) -> SegmenterFacts:
        """The first model's method and limits, where the user has not chosen other ones; all models' hashes."""
        first = self.models[0]
        return SegmenterFacts(
            method=first.method,
            contrasts=first.contrasts,
            optional=tuple(name for name in first.contrasts if all(name in model.optional for model in self.models)),
            spacing_mm=first.spacing_mm,
            limits=Thresholds(first.threshold, first.min_lesion_mm3).chosen(self.settings),
            cautions=tuple(model.caution for model in self.models if model.caution),
            identities=tuple(model.identity for model in self.models),
            fingerprints=tuple(model.fingerprint for model in self.models),
            tested=first.description.tested,
        )

    def check(self, patient: CheckedPatient) -> None:
        """Nothing more is needed: networks see what was prepared."""

    def prior_index(self, index: int, visits: int) -> int:
        """Which visit, in time order, visit `index` is compared with."""
        return self.models[0].prior_index(index, visits)

    def sidecar(self, prior: str | None) -> Sidecar:
        """The prior, and how the window went over the images."""
        shares = [model.overlap if self.settings.overlap is None else self.settings.overlap for model in self.models]
        return {
            "PriorSession": f"ses-{prior}" if prior else None,
            "WindowOverlap": shares,
            "Mirroring": mirrors(self.settings.mirroring, choose_device(self.settings.device), self.models),
        }

    def segment(self, patient: CheckedPatient, prepared: PreparedPatient, log_file: Path) -> list[SegmentedVisit]:
        """Segment every visit, each seen with its prior."""
        visits = [_channels(visit, self.models[0].contrasts) for visit in prepared.visits]
        log.info("sub-%s: segmenting %d visits on a grid of %s", prepared.label, len(visits), prepared.grid.shape)
        chosen = self.settings
        probabilities = lesion_probabilities(
            visits,
            self.models,
            overlap=chosen.overlap,
            mirroring=chosen.mirroring,
            device=chosen.device,
            backend=chosen.backend,
        )
        extras = self._extras(visits, prepared)
        return [
            self._segmented(*of_visit, prepared)
            for of_visit in zip(prepared.visits, probabilities, extras, strict=True)
        ]

    def _extras(self, visits: Sequence[Array], prepared: PreparedPatient) -> list[dict[str, Array]]:
        overlap, device = self.settings.overlap, self.settings.device
        found = [extra_outputs(visits, model, overlap=overlap, device=device) for model in self.models]
        forward = [self.prior_index(index, len(visits)) < index for index in range(len(visits))]
        return [_mean_extras(*of_visit, prepared) for of_visit in zip(forward, zip(*found, strict=True), strict=True)]

    def _segmented(
        self, visit: PreparedVisit, probability: Array, extras: Mapping[str, Array], prepared: PreparedPatient
    ) -> SegmentedVisit:
        grid, limits = prepared.grid, self.facts.limits
        probability = np.where(prepared.brain.data, probability, 0).astype(np.float32)
        mask = lesion_mask(probability, limits.probability, limits.min_lesion_mm3, grid.spacing.tolist())
        return counted(visit, probability, mask, grid, extras)


def _channels(visit: PreparedVisit, contrasts: Sequence[str]) -> Array:
    """The images of a visit (C, X, Y, Z); one that it lacks is 0, as in training."""
    nothing = np.zeros_like(visit.images["FLAIR"].data)
    return np.stack([visit.images[name].data if name in visit.images else nothing for name in contrasts])


def _mean_extras(forward: bool, by_model: Sequence[Mapping[str, Array]], prepared: PreparedPatient) -> dict[str, Array]:
    """The mean over models of every output (K, X, Y, Z) that all of them offer and that is written, in the brain.

    `forward`: the visit comes after its prior.
    """
    offered = [name for name in EXTRAS if all(name in extras for extras in by_model)]
    names = [name for name in offered if forward or not EXTRAS[name].forward]
    means = {name: np.mean([extras[name] for extras in by_model], axis=0) for name in names}
    return {name: np.where(prepared.brain.data, mean, 0).astype(np.float32) for name, mean in means.items()}
