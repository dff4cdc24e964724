"""Write docs/methods.md, a reference card for every method, from the declarations: `python -m scripts.method_cards`.

Sizes are those of the preset `paper` on images of 1 mm. Networks run on PyTorch's `meta`
device, which has shapes alone.
"""

import importlib
import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lesiondelta import methods
from lesiondelta.cohort import CONTRASTS
from lesiondelta.methods import EXTERNAL, ExternalMethod, Method
from lesiondelta.networks.denner import STRIDE, MultitaskNetwork
from lesiondelta.nnunet import dataset, presets
from lesiondelta.nnunet.environment import environment
from tests.synthetic import write_patients

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
OPTIMISERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "amsgrad": "Adam (amsgrad)"}
MARK = "Deviations:\n"
INTRODUCTION = """\
# Methods

*Made by `python -m scripts.method_cards` from what `methods/` declares; a test compares.*

The methods of Table 2 of Rokuss et al. (2024), and variants of ours. All see the same patients, pairs, folds,
registered images and evaluator. Parameters and multiply-adds are those of the preset `paper` on images of 1 mm with T1w
and FLAIR; multiply-adds are of one window: one visit segmented with its prior, without mirroring. `small` and `smoke`
have narrower networks (but for `denner`), and `small` has a shorter recipe in place of nnU-Net's; methods with another
keep theirs (decision 037). In prediction the prior is the visit before, for the first visit the next, for a single
visit itself.
"""


@dataclass(frozen=True)
class Size:
    """Of a network: what it has to learn, and what a window of (X, Y, Z) voxels costs."""

    parameters: int
    window: tuple[int, int, int]
    multiply_adds: int


def page() -> str:
    """The whole page, in Markdown."""
    chosen = [methods.load(name) for name in methods.names()]
    with tempfile.TemporaryDirectory() as name:
        dataset.build(write_patients(Path(name) / "images"), Path(name) / "data", (32, 32, 32))
        cards = [card(method, size(method, Path(name) / "data")) for method in chosen]
    return "\n".join([INTRODUCTION, *cards, *map(external_card, EXTERNAL.values())])


def card(method: Method, of: Size) -> str:
    """One method."""
    about, _ = parts(importlib.import_module(f"lesiondelta.methods.{method.name}"))
    edges = " x ".join(map(str, of.window))
    whole = ", the whole image at once; for one of this size" if method.window == "whole" else ""
    rows = {
        "paper": method.citation,
        "input": inputs(method),
        "network": f"`{method.network.removeprefix('lesiondelta.')}`, {of.parameters:,} parameters",
        "window": f"{edges} voxels{whole}, {of.multiply_adds / 1e9:,.0f} billion multiply-adds",
        "training": training(method),
        "prediction": prediction(method),
    }
    return "\n".join([*heading(method, about, rows), *deviations(method), ""])


def external_card(method: ExternalMethod) -> str:
    """A program of others."""
    rows = {
        "paper": method.citation,
        "input": "T1w and FLAIR of all visits at once, whole heads",
        "training": "none; used as installed",
    }
    about = "FreeSurfer's SAMSEG with its lesion mode (decision 065)."
    return "\n".join([*heading(method, about, rows), ""])


def heading(method: Method | ExternalMethod, about: str, rows: dict[str, str]) -> list[str]:
    """Title, what it is, and a table."""
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    return [f"## {method.title}: `{method.name}`", "", about, "", "| | |", "|---|---|", *table]


def inputs(method: Method) -> str:
    """What the network is given."""
    visits = "the current visit and its prior" if method.longitudinal else "the current visit"
    return f"{' and '.join(CONTRASTS)} of {visits}"


def training(method: Method) -> str:
    """Optimiser, schedule, samples."""
    recipe = method.recipe
    beta = f"momentum {recipe.momentum}" if recipe.optimiser == "sgd" else f"beta 1 {recipe.momentum}"
    said = [
        f"{OPTIMISERS[recipe.optimiser]}, learning rate {recipe.learning_rate:g} ({recipe.schedule}), {beta}",
        f"weight decay {recipe.weight_decay:g}",
        "deep supervision" if method.deep_supervision and recipe == methods.Recipe() else "",
        f"at most {recipe.epochs} epochs" if recipe.epochs else "",
        {"previous": "", "random": "any other visit as the prior", "baseline": "the first visit as the prior"}[
            method.prior
        ],
        "masks of both visits" if method.labels == "both" else "",
    ]
    return "; ".join(filter(None, said))


def prediction(method: Method) -> str:
    """Windows and what is averaged."""
    mirrored = ", mirrored where the device is fast" if method.mirroring else ""
    if method.window == "whole":
        return f"three orientations, slice by slice, averaged{mirrored}"
    return f"windows with an overlap of {method.overlap:g}, {method.weighting} weights{mirrored}"


def deviations(method: Method) -> list[str]:
    """What the modules of the method, its network and its trainer say they do otherwise than the original."""
    dotted = [f"lesiondelta.methods.{method.name}", *(n.rpartition(".")[0] for n in (method.network, method.trainer))]
    found = [parts(importlib.import_module(name))[1] for name in dotted]
    lines = [line for text in found for line in text]
    return ["", "Differs from the original:", "", *lines] if lines else []


def parts(module: object) -> tuple[str, list[str]]:
    """A module's docstring without its deviations, and those, as a list in Markdown."""
    text, _, rest = (inspect.getdoc(module) or "").partition(MARK)
    listed = rest.strip().split("\n\n")[0].splitlines() if rest else []
    return text.strip(), listed


def size(method: Method, data: Path) -> Size:
    """Build the network that the preset `paper` plans, and count."""
    with environment(data):
        from lesiondelta.nnunet.planning import make_plan

        plan = make_plan(presets.load("paper"), method)["configurations"]["3d_fullres"]
    described, (x, y, z) = plan["architecture"], plan["patch_size"]
    network = get_network_from_plans(
        described["network_class_name"], described["arch_kwargs"], described["_kw_requires_import"],
        len(CONTRASTS), 2, allow_init=False, deep_supervision=False,
    )  # fmt: skip
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Size(parameters, (x, y, z), multiply_adds(network.to("meta").eval(), (x, y, z)))


def multiply_adds(network: nn.Module, window: tuple[int, int, int]) -> int:
    """Of one pass of a pair; the counter counts a multiply-add as two."""
    pair = torch.empty(1, 2 * len(CONTRASTS), *window, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        if isinstance(network, MultitaskNetwork):  # what it cuts depends on the values, which `meta` has not
            edge = -(-max(window) // STRIDE) * STRIDE
            for axis in range(3):
                network.view(pair, axis, edge, network.segmentation, 1)
        else:
            network(pair)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
