"""Longitudinal nnU-Net: the same network on cat(current, prior), which has 2C input channels."""

from lesiondelta.methods.method import Method

METHOD = Method(
    name="longitudinal_concat",
    title="Longitudinal nnUNet",
    citation="Rokuss et al. (2024), arXiv:2409.13416, baseline of Table 2",
    network="lesiondelta.networks.unet.ConcatenationUNet",
    longitudinal=True,
)
