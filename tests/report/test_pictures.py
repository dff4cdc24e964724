import matplotlib.image
import numpy as np
import pytest

from lesiondelta.images import Volume
from lesiondelta.report.pictures import Panel, _short, choose_slices, write_picture

SHAPE = (40, 50, 60)


def ball() -> np.ndarray:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return (x**2 + y**2 + z**2 < 0.9).astype(np.float32)


def lesion(*ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def test_slices_are_where_the_lesions_are_bottom_to_top():
    masks = [lesion((10, 15), (10, 15), (20, 30)), lesion((10, 15), (10, 15), (45, 50))]
    chosen = choose_slices(masks, ball(), 6)
    assert chosen == sorted(set(chosen))
    assert all(20 <= z < 30 or 45 <= z < 50 for z in chosen)
    assert {z < 30 for z in chosen} == {True, False}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_few_slices_with_lesions_are_all_shown_and_filled_up_with_neighbours(depth):
    chosen = choose_slices([lesion((10, 15), (10, 15), (20, 20 + depth))], ball(), 6)
    assert len(set(chosen)) == 6
    assert set(range(20, 20 + depth)) <= set(chosen)
    assert max(chosen) - min(chosen) <= 8


def test_without_lesions_the_middle_of_the_brain_is_shown():
    chosen = choose_slices([lesion((0, 0), (0, 0), (0, 0))], ball(), 6)
    assert chosen == sorted(chosen)
    assert 10 < chosen[0] < chosen[-1] < 58


def picture(tmp_path, panels):
    write_picture(tmp_path / "p.png", panels, "title", "note")
    return matplotlib.image.imread(tmp_path / "p.png")


def test_the_patients_left_is_on_the_right(tmp_path):
    """A bright box at low x (the left side in RAS) must appear right of the middle of its slice."""
    flair = ball() * 0.3
    flair[5:12, 22:28, 25:35] = 3
    none = lesion((0, 0), (0, 0), (0, 0))
    drawn = picture(tmp_path, [Panel("ses-1", Volume(flair, np.eye(4)), Volume(none, np.eye(4)))])
    white = drawn[100:-60, :, :3].min(axis=-1) > 0.9  # without the words
    left, width = 0.02 * white.shape[1], 0.975 * white.shape[1] / 6
    places = (np.flatnonzero(white.any(axis=0)) - left) % width / width
    assert 0.5 < places.min() < places.max() < 1


def test_of_a_path_the_last_folder_and_the_name_are_drawn():
    said = "/data/ms/2021/FLAIR.nii.gz and 2019/FLAIR.nii.gz may be 0.7 mm out of line; look at both"
    assert _short(said) == "2021/FLAIR.nii.gz and 2019/FLAIR.nii.gz may be 0.7 mm out of line; look at both"


def test_current_and_prior_have_their_colours(tmp_path):
    image = Volume(ball(), np.eye(4))
    masks = [Volume(lesion((10, 20), (20, 30), (25, 35)), np.eye(4))] * 2
    drawn = picture(tmp_path, [Panel(n, image, m) for n, m in zip(("ses-1", "ses-2"), masks, strict=True)])
    half = drawn.shape[0] // 2
    red, blue = (np.where(drawn[..., a] - drawn[..., b] > 0.4, 1, 0) for a, b in ((0, 2), (2, 0)))
    assert blue[:half, 100:].any()
    assert red[half:, 100:].any()
    assert not red[80 : half - 40, 100:].any()
