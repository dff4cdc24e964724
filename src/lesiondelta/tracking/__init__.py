"""Which lesion of a visit is which of another, and what became of it."""

from lesiondelta.tracking.evidence import VisitImage
from lesiondelta.tracking.identity import Group, groups_of, name_lesions
from lesiondelta.tracking.track import track
from lesiondelta.tracking.visit import TrackedVisit, Tracking

__all__ = ["Group", "TrackedVisit", "Tracking", "VisitImage", "groups_of", "name_lesions", "track"]
