"""Everything that can go wrong for a reason the user can act on.

LesionDeltaError
  InputError                what the user gave cannot be used
    ImageError              an image file: unreadable, 4D, not finite, all zero
    GeometryError           an affine or a grid
    CohortError             a dataset, a patient, a visit: absent, incomplete, ambiguous
      NoVisitError          none of a patient's visits can be used
  RegistrationError         two images could not be brought into one space (the gate)
  ModelError                weights or their description: corrupt, foreign, unsuitable
  OutputError               the output folder: not writable, full, or somebody else's
  DependencyError           an external program or optional package is not installed
  ProgramError              an external program or a process of ours was ended, took too long, or left no result

A message says what was found, in which file, and what to do about it.
"""

from collections.abc import Mapping

LONGEST_QUOTE = 200


def short(said: object, most: int = LONGEST_QUOTE) -> str:
    """What a file or another library says, on one line and cut to where a sentence can still be read."""
    text = " ".join(str(said).split())
    return text if len(text) <= most else f"{text[:most]}..."


class LesionDeltaError(Exception):
    """Base of every error with a message for the user; anything else is a bug."""


class InputError(LesionDeltaError):
    """What the user gave cannot be used."""


class ImageError(InputError):
    """An image file is unreadable, not 3D, not finite, or empty."""


class GeometryError(InputError):
    """An affine is unusable, or two grids differ."""


class CohortError(InputError):
    """A dataset, a patient or a visit is absent, incomplete or ambiguous."""


class NoVisitError(CohortError):
    """None of a patient's visits can be used; `failures` says why, by visit label."""

    def __init__(self, patient: str, failures: Mapping[str, str]) -> None:
        reasons = " ".join(dict.fromkeys(failures.values())) or "It has none."
        super().__init__(f"No visit of patient {patient} can be used. {reasons}")
        self.patient, self.failures = patient, dict(failures)

    def __reduce__(self) -> tuple[type, tuple[str, dict[str, str]]]:
        """Travel between processes."""
        return type(self), (self.patient, self.failures)


class RegistrationError(LesionDeltaError):
    """Two images could not be brought into one space with confidence."""


class ModelError(LesionDeltaError):
    """Weights or their description are corrupt, foreign or unsuitable."""


class OutputError(LesionDeltaError):
    """The output folder cannot be written, is full, or holds something else."""


class DependencyError(LesionDeltaError):
    """An external program or an optional package is not installed."""


class ProgramError(LesionDeltaError):
    """An external program failed, took too long, or left no result, or a process of ours was killed."""
