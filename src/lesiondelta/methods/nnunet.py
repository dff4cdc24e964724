"""nnU-Net on the current visit only: the baseline that every longitudinal method has to beat.

The loss is Dice + cross-entropy, as for every method unless stated otherwise.
"""

from lesiondelta.methods.method import Method

METHOD = Method(
    name="nnunet",
    title="nnUNet",
    citation="Isensee et al. (2021), Nature Methods 18, 203-211, doi:10.1038/s41592-020-01008-z",
    network="lesiondelta.networks.unet.SingleVisitUNet",
    longitudinal=False,
)
