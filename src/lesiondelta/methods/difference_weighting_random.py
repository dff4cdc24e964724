"""Difference weighting, trained with any other visit as the prior, which the paper leaves open."""

from dataclasses import replace

from lesiondelta.methods import difference_weighting

METHOD = replace(
    difference_weighting.METHOD,
    name="difference_weighting_random",
    title="Difference weighting, random prior",
    prior="random",
)
