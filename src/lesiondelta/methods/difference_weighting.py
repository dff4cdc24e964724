"""Temporal difference weighting: features of the current visit, weighted by where they differ from the prior's.

x' = x_c * InstNorm(x_c - x_p) + x_c at every stage of a shared encoder (Eq. 2); the decoder sees only x'.
"""

from lesiondelta.methods.method import Method

METHOD = Method(
    name="difference_weighting",
    title="Difference weighting",
    citation="Rokuss et al. (2024), arXiv:2409.13416",
    network="lesiondelta.networks.unet.DifferenceWeightingUNet",
    longitudinal=True,
)
