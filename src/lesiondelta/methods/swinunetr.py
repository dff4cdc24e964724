"""SwinUNETR on the current visit only: a transformer as the second single-visit baseline.

The paper (Table 2) gives no schedule for it. Ours is AdamW with cosine decay, as in the authors' training code, but
without its warm-up. There is no deep supervision, and patches are rounded up to multiples of 32.
"""

from lesiondelta.methods.method import Method, Recipe

METHOD = Method(
    name="swinunetr",
    title="SwinUNETR",
    citation="Hatamizadeh et al. (2022), Swin UNETR, arXiv:2201.01266, doi:10.1007/978-3-031-08999-2_22",
    network="lesiondelta.networks.swinunetr.SingleVisitSwinUNETR",
    longitudinal=False,
    recipe=Recipe("adamw", 8e-4, "cosine", momentum=0.9, eps=1e-5, weight_decay=0.01),
    deep_supervision=False,
    patch_multiple=32,
)
