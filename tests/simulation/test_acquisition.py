from dataclasses import replace

import numpy as np
import pytest

from lesiondelta.images import Grid, Volume
from lesiondelta.simulation import Acquisition
from lesiondelta.simulation.acquisition import Protocol, aligned, degrade, draw_protocols, ghosted
from lesiondelta.simulation.head import DEFACED_FROM_MM, draw_head
from lesiondelta.simulation.native import scan_grid, slice_average

PLAIN = Protocol(3.0, 1.0, (0, 1, 2), (0, 0, 0), 0.0, 0.0)


def protocols(count=400, **options):
    rng = np.random.default_rng(0)
    return [draw_protocols(rng, Acquisition(**options)) for _ in range(count)]


def test_protocols_are_drawn_in_their_ranges():
    drawn = [protocol for visit in protocols() for protocol in visit.values()]
    assert {protocol.slice_mm for protocol in drawn} == {1.0, 1.5, 2.0, 3.0, 4.0, 5.0}
    assert {protocol.axes[2] for protocol in drawn} == {0, 1, 2}
    assert 0.1 < np.mean([protocol.ghost > 0 for protocol in drawn]) < 0.2
    gapped = [protocol for protocol in drawn if protocol.gap_mm]
    assert 0.05 < len(gapped) / len(drawn) < 0.3
    assert all(0.1 <= protocol.gap_mm / protocol.slice_mm <= 0.3 for protocol in gapped)
    assert 0.007 < min(protocol.noise for protocol in drawn) < max(protocol.noise for protocol in drawn) < 0.08


def test_a_visit_has_one_field_strength():
    """Noise of both images is drawn in 0.01 to 0.06, times 1.3 or 0.8: no visit has one of each beyond the other's."""
    low, high = 0.01 * 1.3, 0.06 * 0.8
    both = [sorted(protocol.noise for protocol in visit.values()) for visit in protocols()]
    assert not any(a < low and b > high for a, b in both)
    assert any(a < low for a, _ in both)
    assert any(b > high for _, b in both)


def test_what_is_given_is_not_drawn():
    for visit in protocols(20, slice_mm=4.0, noise=0.02):
        assert all((p.slice_mm, p.gap_mm, p.noise) == (4.0, 0.0, 0.02) for p in visit.values())


def test_ghosts_lie_at_both_sides_and_keep_the_signal():
    image = np.zeros((12, 4, 4), np.float32)
    image[6] = 1
    mixed = ghosted(image, replace(PLAIN, ghost=0.2, ghosts=3), 0)
    np.testing.assert_allclose(mixed[[2, 6, 10], 0, 0], [0.1, 0.8, 0.1], atol=1e-6)
    assert mixed.sum() == pytest.approx(image.sum())
    shown = degrade(np.random.default_rng(0), image, replace(PLAIN, ghost=0.2, ghosts=3), 1.0, phase_axis=0)
    np.testing.assert_allclose(shown, mixed, atol=1e-6)


def test_gaps_are_not_seen():
    """A plane between two slices: seen where slices touch, lost in the gap."""
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (8, 8, 30))
    plane = np.zeros((8, 8, 30), np.float32)
    plane[..., 12] = 1
    grid = Grid((8, 8, 5), np.diag([1.0, 1, 6, 1]))  # middles at 0, 6, 12, 18, 24
    for volume, filled, expected in (
        (ramp, 0.5, [6, 12, 18]),
        (plane, 0.5, [0, 1 / 3, 0]),
        (plane, 1.0, [0, 1 / 6, 0]),
    ):
        seen = slice_average(Volume(volume, np.eye(4)), grid, np.eye(4), filled)
        np.testing.assert_allclose(seen[3, 3, 1:4], expected, atol=1e-5)
    between = np.roll(plane, 3, axis=2)  # at 15, half way from 12 to 18
    assert slice_average(Volume(between, np.eye(4)), grid, np.eye(4), 0.5).max() == 0
    assert slice_average(Volume(between, np.eye(4)), grid, np.eye(4), 1.0).max() > 0


def test_gaps_widen_the_grid(anatomy):
    brain = Volume(anatomy.brain, anatomy.affine).grid
    rng = np.random.default_rng(0)
    grid = scan_grid(rng, brain, np.eye(4), replace(PLAIN, gap_mm=1.0), 0.7)
    assert grid.spacing[2] == pytest.approx(4)


def test_aligned_gaps_lose_what_lies_in_them():
    """Bright planes one voxel apart: slices of 3 mm that touch see every one, those with gaps of 3 mm about half."""
    lost = []
    for gap_mm in (0.0, 3.0):
        seen = []
        for plane in range(30, 36):
            data = np.zeros((8, 8, 66), np.float32)
            data[..., plane] = 1
            scan = aligned(np.random.default_rng(1), Volume(data, np.eye(4)), replace(PLAIN, gap_mm=gap_mm), 0.0)
            seen.append(scan[4, 4, 20:46].max())
        lost.append(np.sum(np.array(seen) < 0.05))
    assert lost[0] == 0
    assert lost[1] >= 2


def test_some_heads_are_defaced(anatomy):
    y, z = (np.flatnonzero(anatomy.brain.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    voxels = []
    for seed in range(8):
        head = draw_head(np.random.default_rng(seed), anatomy)
        first = head.margin + y[-1] + round(2 * DEFACED_FROM_MM / anatomy.spacing_mm)
        voxels.append(np.count_nonzero(head.labels[:, first:, : head.margin + int(z.mean())]))
    assert min(voxels) == 0
    assert max(voxels) > 100
