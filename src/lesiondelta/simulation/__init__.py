"""Labelled longitudinal patients."""

from lesiondelta.simulation.acquisition import Acquisition
from lesiondelta.simulation.anatomy import Anatomy, deformed, image_anatomy, mni152_anatomy
from lesiondelta.simulation.dataset import CohortPlan, write_cohort
from lesiondelta.simulation.disease import LesionPlan
from lesiondelta.simulation.evolution import Rates
from lesiondelta.simulation.labels import label_anatomy, read_label_anatomy
from lesiondelta.simulation.sources import Person, find_lesion_masks, find_people
from lesiondelta.simulation.visits import SimulatedPatient, SimulatedVisit, simulate_patient

__all__ = [
    "Acquisition",
    "Anatomy",
    "CohortPlan",
    "LesionPlan",
    "Person",
    "Rates",
    "SimulatedPatient",
    "SimulatedVisit",
    "deformed",
    "find_lesion_masks",
    "find_people",
    "image_anatomy",
    "label_anatomy",
    "mni152_anatomy",
    "read_label_anatomy",
    "simulate_patient",
    "write_cohort",
]
