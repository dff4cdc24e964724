"""Pairs of visits drawn from label maps, in torch, while a network trains."""
