"""Denner et al. 2020: 2.5D segmentation and registration of a pair, by one encoder and two decoders.

A network of 2D slices segments the current visit (fixed) and displaces the prior (moving) onto it. Volumes go through
it slice by slice in three orientations, and what the orientations say is averaged.

Checked against the authors' code (StefanDenn3r/Spatio-temporal-MS-Lesion-Segmentation, commit 04790fd). Deviations:

- min-max scaling to [0, 1] uses nonzero voxels, and the rest stays 0: our images are z-scored inside the brain, theirs
  are raw with a minimum of 0 in the background;
- the cube around both visits' nonzero voxels has an edge rounded up to a multiple of 32;
- volumes are transposed between views; theirs are rotated with splines;

References
----------
Denner et al. (2020), arXiv:2004.03675; Jégou et al. (2017), arXiv:1611.09326 (FC-DenseNet).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

STRIDE = 32  # five poolings
SLICES = 8  # in one pass of a GPU; a CPU is 1.5 times as fast with one, which stays in its caches
CERTAIN = 1e-6  # probabilities stay this far from 0 and 1, so that their logits are finite


class DenseLayer(nn.Sequential):
    """BN, ReLU, convolution, dropout: (B, F, H, W) -> (B, growth, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1), nn.Dropout2d(0.2)
        )


class DenseBlock(nn.Module):
    """Layers that each see the block's input and all that is new; gives what is new, or both."""

    def __init__(self, channels: int, growth: int, layers: int, *, keeps_input: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(channels + i * growth, growth) for i in range(layers))
        self.dropped = 0 if keeps_input else channels
        self.channels = channels + layers * growth - self.dropped

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, channels, H, W)."""
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x[:, self.dropped :]


class TransitionDown(nn.Sequential):
    """BN, ReLU, 1x1 convolution, dropout, pooling: (B, F, H, W) -> (B, F, H // 2, W // 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.Dropout2d(0.2), nn.MaxPool2d(2)
        )


class TransitionUp(nn.Module):
    """Double the edges, cut the centre to the skip's size, and join the skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, F, h, w) and (B, S, H, W) -> (B, F + S, H, W)."""
        return torch.cat((centre_crop(self.convolution(x), skip.shape[2], skip.shape[3]), skip), dim=1)


class Encoder(nn.Module):
    """FC-DenseNet57's way down, with its bottleneck."""

    def __init__(self, channels: int, growth: int = 12, layers: int = 4, blocks: int = 5, first: int = 48) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, first, 3, padding=1)
        widths = [first + i * layers * growth for i in range(blocks)]
        self.blocks = nn.ModuleList(DenseBlock(n, growth, layers, keeps_input=True) for n in widths)
        self.skip_channels = [n + layers * growth for n in widths]
        self.downs = nn.ModuleList(TransitionDown(n) for n in self.skip_channels)
        self.bottleneck = DenseBlock(self.skip_channels[-1], growth, layers, keeps_input=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 2C, H, W) -> the skips, finest first, and the bottleneck's 48 channels."""
        states = []
        x = self.first(x)
        for block, down in zip(self.blocks, self.downs, strict=True):
            states.append(block(x))
            x = down(states[-1])
        return [*states, self.bottleneck(x)]


class Decoder(nn.Module):
    """FC-DenseNet57's way up; the last block keeps its input."""

    def __init__(self, encoder: Encoder, outputs: int, growth: int = 12, layers: int = 4) -> None:
        super().__init__()
        width, skips = encoder.bottleneck.channels, encoder.skip_channels[::-1]
        self.ups = nn.ModuleList(TransitionUp(width) for _ in skips)
        blocks = [DenseBlock(width + skip, growth, layers, keeps_input=skip == skips[-1]) for skip in skips]
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(blocks[-1].channels, outputs, 1)

    def forward(self, states: list[Tensor]) -> Tensor:
        """The encoder's states -> (B, outputs, H, W)."""
        *skips, x = states
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = block(up(x, skip))
        output: Tensor = self.last(x)
        return output


class MultitaskNetwork(nn.Module):
    """One encoder of (prior, current), a decoder for the lesions and one for the displacement of the prior.

    Takes `input_channels`, the channels C of one visit; the plan's other arguments have no meaning here.
    """

    def __init__(self, input_channels: int, *_: Any, **__: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.encoder = Encoder(2 * input_channels)
        self.segmentation = Decoder(self.encoder, 2)
        self.displacement = Decoder(self.encoder, 2)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on the CPU

    def forward(self, pair: Tensor) -> Any:  # noqa: ANN401
        """cat(current, prior): volumes (B, 2C, X, Y, Z) -> logits (B, 2, X, Y, Z); in training, slices -> `slices`."""
        return self.slices(pair) if pair.ndim == 4 else self.decode(*pair.chunk(2, dim=1))

    def slices(self, pair: Tensor) -> list[Tensor]:
        """cat(current, prior) (B, 2C, H, W) in [0, 1] -> logits (B, 2, H, W), displacement (B, 2, H, W) in voxels."""
        states = self.encoder(moving_first(pair))
        return [self.segmentation(states), self.displacement(states)]

    def encode(self, visit: Tensor) -> Tensor:
        """The identity: both visits enter the encoder together."""
        return visit

    def decode(self, current: Tensor, prior: Tensor) -> Tensor:
        """(B, C, X, Y, Z) twice -> logits (B, 2, X, Y, Z) of the mean probability over the views."""
        views = self.views(current, prior, self.segmentation)
        lesion = torch.stack([view.softmax(dim=1)[:, 1:] for view in views]).mean(dim=0)
        return logits_of(put_back(lesion, current, prior))

    def extras(self, current: Tensor, prior: Tensor) -> dict[str, Tensor]:
        """`displacement` (B, 3, X, Y, Z): voxels from each place in `current` to the same place in `prior`.

        Two views see an axis: their mean. It is 0 outside the box in which either visit is nonzero.
        """
        x, y, z = self.views(current, prior, self.displacement)  # the views across these axes
        axes = (y[:, 0] + z[:, 0], x[:, 0] + z[:, 1], x[:, 1] + y[:, 1])
        return {"displacement": put_back(torch.stack(axes, dim=1) / 2, current, prior)}

    def views(self, current: Tensor, prior: Tensor, decoder: nn.Module) -> list[Tensor]:
        """What a decoder gives of two volumes (B, C, X, Y, Z), for the slices across each axis: (B, 2, x, y, z).

        x, y, z are the edges of the box in which either visit is nonzero.
        """
        pair = torch.cat((scale(current), scale(prior)), dim=1)[box_of(current, prior)]
        edge = STRIDE * math.ceil(max(pair.shape[2:]) / STRIDE)
        alone = pair.device.type == "cpu" and not self.training  # batch norm cannot learn from one slice
        return [self.view(pair, axis, edge, decoder, 1 if alone else SLICES) for axis in range(3)]

    def view(self, pair: Tensor, axis: int, edge: int, decoder: nn.Module, at_once: int) -> Tensor:
        """Slices (B, 2C, X, Y, Z) across `axis`, so many at once, amid squares of this edge -> (B, 2, X, Y, Z)."""
        slices = slices_across(moving_first(pair), axis)
        height, width = slices.shape[2:]
        parts = torch.split(slices, at_once)
        done = [decoder(self.encoder(centre_pad(part, edge))) for part in parts]
        return volume_of(torch.cat([centre_crop(part, height, width) for part in done]), axis, len(pair))


def moving_first(pair: Tensor) -> Tensor:
    """cat(current, prior) -> cat(prior, current), the order of the network's channels."""
    return torch.cat(pair.chunk(2, dim=1)[::-1], dim=1)


def scale(volume: Tensor) -> Tensor:
    """Min-max to [0, 1] over the nonzero voxels of every channel (B, C, X, Y, Z); the others stay 0."""
    inside = volume != 0
    low = volume.masked_fill(~inside, math.inf).amin(dim=(2, 3, 4), keepdim=True)
    high = volume.masked_fill(~inside, -math.inf).amax(dim=(2, 3, 4), keepdim=True)
    return torch.where(inside, (volume - low) / (high - low).clamp_min(1e-8), 0)


def box_of(current: Tensor, prior: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds all nonzero voxels of two volumes (B, C, X, Y, Z); the whole where there are none."""
    places = ((current != 0) | (prior != 0)).any(dim=0).any(dim=0).nonzero()
    if not len(places):
        return (slice(None),) * 5
    low, high = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
    return (slice(None), slice(None), *(slice(a, b + 1) for a, b in zip(low, high, strict=True)))


def put_back(inside: Tensor, current: Tensor, prior: Tensor) -> Tensor:
    """Values (B, F, x, y, z) of the box of two volumes (B, C, X, Y, Z) -> (B, F, X, Y, Z), 0 around."""
    whole = inside.new_zeros(*inside.shape[:2], *current.shape[2:])
    whole[box_of(current, prior)] = inside
    return whole


def logits_of(lesion: Tensor) -> Tensor:
    """(B, 1, X, Y, Z) probabilities of lesion -> (B, 2, X, Y, Z), whose softmax has them as its second channel."""
    lesion = lesion.clamp(CERTAIN, 1 - CERTAIN)
    return torch.cat((torch.log1p(-lesion), lesion.log()), dim=1)


def slices_across(volume: Tensor, axis: int) -> Tensor:
    """(B, F, X, Y, Z) -> (B * N, F, H, W) for the N voxels of spatial axis 0, 1 or 2; H and W are the other two."""
    return volume.movedim(axis + 2, 1).flatten(0, 1)


def volume_of(slices: Tensor, axis: int, batch: int) -> Tensor:
    """Undo `slices_across`."""
    return slices.reshape(batch, -1, *slices.shape[1:]).movedim(1, axis + 2)


def centre_pad(slices: Tensor, edge: int) -> Tensor:
    """(..., H, W) -> (..., edge, edge), zeros around."""
    height, width = (edge - n for n in slices.shape[-2:])
    return F.pad(slices, (width // 2, width - width // 2, height // 2, height - height // 2))


def centre_crop(slices: Tensor, height: int, width: int) -> Tensor:
    """(..., H, W) -> (..., height, width)."""
    top, left = (slices.shape[-2] - height) // 2, (slices.shape[-1] - width) // 2
    return slices[..., top : top + height, left : left + width]


def warp(moving: Tensor, displacement: Tensor) -> Tensor:
    """Bilinear: the result at p is `moving` at p + displacement(p); 0 comes from outside.

    Parameters
    ----------
    moving : (B, C, H, W) float
    displacement : (B, 2, H, W) float
        Voxels, along H and along W.

    Returns
    -------
    (B, C, H, W) float
    """
    height, width = moving.shape[2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=moving.device), torch.arange(width, device=moving.device), indexing="ij"
    )
    y = 2 * (rows + displacement[:, 0]) / (height - 1) - 1  # -1 and 1 are the centres of the first and last voxel
    x = 2 * (columns + displacement[:, 1]) / (width - 1) - 1
    return F.grid_sample(moving, torch.stack((x, y), dim=-1).to(moving.dtype), align_corners=True)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the softmax (B, 2, H, W) from the one-hot labels (B, H, W) in {0, 1}."""
    lesion = labels[:, None].to(logits.dtype)
    return F.mse_loss(logits.softmax(dim=1), torch.cat((1 - lesion, lesion), dim=1))


def registration_loss(displacement: Tensor, current: Tensor, prior: Tensor) -> Tensor:
    """Mean squared error of the warped prior from the current visit, every modality counted."""
    return F.mse_loss(warp(prior, displacement), current)


def smoothness_loss(displacement: Tensor) -> Tensor:
    """Half the sum of the mean squared differences of neighbours (B, 2, H, W) along H and along W."""
    along_h, along_w = displacement.diff(dim=2), displacement.diff(dim=3)
    return (along_h.square().mean() + along_w.square().mean()) / 2


def multitask_loss(outputs: list[Tensor], labels: Tensor, pair: Tensor) -> Tensor:
    """Segmentation + registration + 0.01 * smoothness.

    Parameters
    ----------
    outputs : logits (B, 2, H, W) and displacement (B, 2, H, W) in voxels
    labels : (B, H, W) in {0, 1}
    pair : (B, 2C, H, W)
        cat(current, prior)
    """
    logits, displacement = (output.float() for output in outputs)
    aligned = registration_loss(displacement, *pair.chunk(2, dim=1))
    return segmentation_loss(logits, labels) + aligned + 0.01 * smoothness_loss(displacement)
