"""Difference weighting in nnU-Net's U-Net with a residual encoder; this is not in the paper."""

from dataclasses import replace

from lesiondelta.methods import difference_weighting

METHOD = replace(
    difference_weighting.METHOD,
    name="difference_weighting_resenc",
    title="Difference weighting, ResEnc",
    network="lesiondelta.networks.unet.DifferenceWeightingResEncUNet",
    planner="residual",
)
