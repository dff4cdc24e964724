"""Difference weighting, trained with a random other visit as prior; the paper leaves this open."""

from dataclasses import replace

from lesiondelta.methods import difference_weighting

METHOD = replace(
    difference_weighting.METHOD,
    name="difference_weighting_random",
    title="Difference weighting, random prior",
    prior="random",
)
