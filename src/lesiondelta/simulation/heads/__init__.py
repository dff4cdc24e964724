"""Whole heads drawn from label maps, for a network that learns anatomy."""
