"""Labelled longitudinal patients."""
