"""Wu et al. 2023, CoactSeg: both visits and their difference in one V-Net, with heads for old, current and new lesions.

The loss is soft Dice of the three heads, from half of the training on with a regulariser on new lesions. Recipe,
patches and prediction are the authors' code's (see `networks.coactseg` and `nnunet.coactseg`, which say what
differs). Windows of the current visit's lesions are averaged as logits, as for every method here; theirs, and those of
the new lesions here too, as probabilities.
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
