"""SimU-Net: a recurrent residual U-Net on cat(current, prior), with nnU-Net's recipe as in the paper's comparison."""

from lesiondelta.methods.method import Method

METHOD = Method(
    name="simunet",
    title="Szeskin et al.",
    citation="Szeskin et al. (2023), SimU-Net, Medical Image Analysis 83, 102675, doi:10.1016/j.media.2022.102675",
    network="lesiondelta.networks.simunet.RecurrentResidualUNet",
    longitudinal=True,
)
