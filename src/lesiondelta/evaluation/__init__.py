"""Metrics and patient-level averages: arrays to tables."""

from typing import Literal

Undefined = Literal["penalise", "nan"]
Convention = Literal["lesiondelta", "longiseg"]
