"""Metrics and patient-level averages: arrays to tables."""
