"""Longitudinal nnU-Net, trained with any other visit as the prior, which the paper leaves open."""

from dataclasses import replace

from lesiondelta.methods import longitudinal_concat

METHOD = replace(
    longitudinal_concat.METHOD,
    name="longitudinal_concat_random",
    title="Longitudinal nnUNet, random prior",
    prior="random",
)
