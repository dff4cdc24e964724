"""Wu et al. 2023, CoactSeg: both visits and their difference in one V-Net, with heads for old, current and new lesions.

The loss is soft Dice of the three heads; the second half of the training adds a regulariser on new lesions. Recipe,
patches and prediction follow the authors' code (`networks.coactseg` and `nnunet.coactseg` say what differs).
Overlapping windows are averaged as logits for current lesions, as in every method here, and as probabilities for new
ones; the authors average probabilities for both.
"""

from lesiondelta.methods.method import Method, Recipe

METHOD = Method(
    name="coactseg",
    title="CoactSeg",
    citation="Wu et al. (2023), arXiv:2307.04513",
    network="lesiondelta.networks.coactseg.DifferenceVNet",
    longitudinal=True,
    recipe=Recipe(
        optimiser="adam", schedule="constant", momentum=0.9, weight_decay=0.0, foreground_share=1.0, epochs=80
    ),
    patch_multiple=16,
    largest_patch=80,
    labels="both",
    weighting="uniform",
    overlap=0.75,
    mirroring=False,
    trainer="lesiondelta.nnunet.coactseg.ThreeHeadTrainer",
)
