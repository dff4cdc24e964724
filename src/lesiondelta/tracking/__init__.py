"""Which lesion of a visit is which of another, and what became of it."""

from lesiondelta.tracking.change import TrackedVisit, Tracking, track
from lesiondelta.tracking.identity import Group, groups_of, name_lesions

__all__ = ["Group", "TrackedVisit", "Tracking", "groups_of", "name_lesions", "track"]
