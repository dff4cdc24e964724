"""Denner et al. 2020: slices in three orientations, segmented and registered to the prior by one network.

The loss is the squared error of the softmax, plus that of the prior warped onto the current visit, plus 0.01 times the
smoothness of the displacement. Recipe, losses, slices and three-view inference follow the authors' code
(`networks.denner` and `nnunet.slices` say what differs). In prediction the prior is the previous visit; in training,
each other visit in turn.
"""

from lesiondelta.methods.method import Method, Recipe

METHOD = Method(
    name="denner",
    title="Denner et al.",
    citation="Denner et al. (2020), arXiv:2004.03675",
    network="lesiondelta.networks.denner.MultitaskNetwork",
    longitudinal=True,
    recipe=Recipe(optimiser="amsgrad", learning_rate=1e-4, schedule="step", momentum=0.9, weight_decay=0.0, epochs=100),
    deep_supervision=False,
    window="whole",
    weighting="uniform",
    mirroring=False,
    trainer="lesiondelta.nnunet.slices.SliceTrainer",
)
