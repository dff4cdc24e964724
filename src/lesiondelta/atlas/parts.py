"""What the anatomy network tells apart."""

from enum import IntEnum


class Part(IntEnum):
    """Labels of an anatomy; all but 0 are the brain.

    FLUID is that of sulci and cisterns; VENTRICLES hold their choroid plexus. WHITE holds the lesions, CORTEX is that
    of the cerebrum.
    """

    OUTSIDE = 0
    VENTRICLES = 1
    FLUID = 2
    CORTEX = 3
    DEEP_GREY = 4
    WHITE = 5
    CEREBELLUM = 6
    BRAIN_STEM = 7
