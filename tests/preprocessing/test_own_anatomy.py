"""A patient's own anatomy in the patient's space."""

from dataclasses import replace

import numpy as np
import pytest

from lesiondelta.anatomy.finding import Anatomy
from lesiondelta.atlas import Region
from lesiondelta.atlas.parts import Part
from lesiondelta.errors import ImageError
from lesiondelta.images import Grid, Volume
from lesiondelta.preprocessing import own_anatomy
from lesiondelta.preprocessing.own_anatomy import common_parts, own_regions, regions_of_parts, volumes_mm3, with_anatomy
from lesiondelta.preprocessing.preparation import NO_ATLAS, NOT_CHECKED, PreparedPatient, PreparedVisit

SHAPE = (24, 24, 24)
COARSE = np.diag([2.0, 2, 2, 1])
GRID = Grid((48, 48, 48), np.eye(4))


def anatomy(parts, sure=1.0):
    """An anatomy in which every voxel is a part, with that probability; the rest is outside."""
    shares = np.zeros((len(Part), *SHAPE), np.float32)
    for part in Part:
        shares[part] = np.where(parts == part, sure, 0)
    shares[Part.OUTSIDE] += 1 - shares.sum(axis=0)
    return Anatomy(shares, COARSE)


@pytest.fixture
def parts():
    """White matter with a ventricle, cerebellum below it with the fourth ventricle."""
    found = np.zeros(SHAPE, np.uint8)
    found[4:20, 4:20, 4:20] = Part.WHITE
    found[4:20, 4:20, 4:9] = Part.CEREBELLUM
    found[10:14, 10:14, 14:17] = Part.VENTRICLES
    found[11:13, 11:13, 5:7] = Part.VENTRICLES
    return found


@pytest.fixture
def patient():
    brain = np.zeros(GRID.shape, bool)
    brain[8:40, 8:40, 8:40] = True
    visits = [
        PreparedVisit(
            label,
            {"FLAIR": Volume(brain * np.float32(9), GRID.affine, f"ses-{label}_FLAIR.nii.gz")},
            {"FLAIR": np.diag([size, 1, 1, 1])},
            {},
            {"x": 1.0},
            (NO_ATLAS, "another"),
        )
        for label, size in (("1", 1.0), ("2", 1.1))
    ]
    return PreparedPatient("01", GRID, Volume(brain, GRID.affine, "brain"), tuple(visits), {})


def test_parts_of_all_visits_together(parts, patient):
    """Where two visits differ, the surer one decides; nothing lies outside the brain."""
    other = np.where(parts == Part.WHITE, Part.DEEP_GREY, parts)
    found = common_parts([anatomy(parts, 0.9), anatomy(other, 0.6)], patient.brain).data
    assert found[30, 12, 36] == Part.WHITE
    assert found[24, 24, 30] == Part.VENTRICLES
    assert not found[~patient.brain.data].any()


def test_the_fourth_ventricle_is_infratentorial(parts, patient):
    regions = regions_of_parts(common_parts([anatomy(parts)], patient.brain))
    assert regions[24, 24, 30] == Region.VENTRICLES
    assert regions[24, 24, 12] == Region.INFRATENTORIAL
    assert regions[12, 12, 12] == Region.INFRATENTORIAL
    assert regions[12, 12, 30] == Region.WHITE
    assert regions[0, 0, 0] == 0


def test_volumes_are_those_of_tissue_and_ventricles(parts):
    found = volumes_mm3(anatomy(parts))
    ventricles = np.count_nonzero(parts == Part.VENTRICLES) * 8
    assert found == pytest.approx({"tissue_mm3": 16**3 * 8 - ventricles, "ventricles_mm3": ventricles})


def test_every_visit_gets_its_own_volumes(monkeypatch, parts, patient):
    """Before the registration: the second visit's images are larger by a tenth than the patient's space."""
    larger = parts.copy()
    larger[9:15, 9:15, 14:17] = Part.VENTRICLES
    seen = iter([anatomy(parts), anatomy(larger)])
    monkeypatch.setattr(own_anatomy, "find_anatomy", lambda images: next(seen))
    found = with_anatomy(patient)
    first, second = (visit.quality["ventricles_mm3"] for visit in found.visits)
    before = 8 * np.count_nonzero(parts == Part.VENTRICLES)
    assert first == pytest.approx(before)
    assert second == pytest.approx(1.1 * (before + 8 * (6 * 6 - 4 * 4) * 3))
    assert found.visits[0].quality["x"] == 1.0
    assert own_regions(found)[24, 24, 30] == Region.VENTRICLES
    assert found.visits[0].warnings == (NOT_CHECKED, "another")


def nothing(images):
    raise ImageError("No brain was found in ses-1_FLAIR.nii.gz: look at it.")


def test_where_the_network_sees_no_brain_the_atlas_is_left(monkeypatch, patient):
    monkeypatch.setattr(own_anatomy, "find_anatomy", nothing)
    found = with_anatomy(patient)
    assert found.parts is None
    assert found.visits[0].warnings == (NO_ATLAS, "another", "No brain was found in ses-1_FLAIR.nii.gz: look at it.")
    assert own_regions(patient) is None
    monkeypatch.setattr(own_anatomy, "regions_of", lambda brain, from_atlas: from_atlas)
    assert own_regions(replace(patient, from_atlas=np.eye(4))).shape == (4, 4)


def test_a_visit_whose_brain_is_seen_elsewhere_has_no_volumes(monkeypatch, parts, patient):
    seen = iter([anatomy(parts), anatomy(np.roll(parts, 6, axis=0))])
    monkeypatch.setattr(own_anatomy, "find_anatomy", lambda images: next(seen))
    found = with_anatomy(patient)
    assert "ventricles_mm3" in found.visits[0].quality
    assert "ventricles_mm3" not in found.visits[1].quality
    assert "does not see the brain of ses-2_FLAIR.nii.gz where it is" in found.visits[1].warnings[-1]
    assert found.parts is not None
