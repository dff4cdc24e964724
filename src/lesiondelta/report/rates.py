"""Rates a year, in the reports of patients and cohorts."""

LEAST_YEARS = 0.1
"""Between visits that are nearer, a rate a year is noise."""


def a_year(amount: float, years: float | None) -> float | None:
    """The amount a year; None where the dates are not known (None), or lie too near."""
    return amount / years if years is not None and years >= LEAST_YEARS else None
