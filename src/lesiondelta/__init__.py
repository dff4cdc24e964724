"""Longitudinal segmentation of multiple sclerosis lesions in brain MRI, and what changed between visits."""

__version__ = "0.1.0"
