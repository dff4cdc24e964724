"""Labelled datasets in the layout of their owners become BIDS datasets."""
