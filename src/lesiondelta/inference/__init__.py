"""Sliding-window segmentation of n visits with an exported model."""
