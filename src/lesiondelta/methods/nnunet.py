"""nnU-Net on the current visit alone: the baseline that every longitudinal method has to beat.

The loss is Dice + cross-entropy, which is also that of every method that states no other.
"""

from lesiondelta.methods.method import Method

METHOD = Method(
    name="nnunet",
    title="nnUNet",
    citation="Isensee et al. (2021), Nature Methods 18, 203-211, doi:10.1038/s41592-020-01008-z",
    network="lesiondelta.networks.unet.SingleVisitUNet",
    longitudinal=False,
)
