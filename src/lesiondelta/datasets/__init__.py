"""Labelled datasets in the layout of their owners become BIDS datasets."""

from typing import Literal

Rater = Literal["rater1", "rater2", "union", "intersection"]
