"""Files of corrected masks as readers and their programs leave them."""

import json

import pytest

from lesiondelta.errors import CohortError
from lesiondelta.outputs.corrections import CORRECTED, drawn_on, editable_masks, is_manual
from lesiondelta.outputs.derivatives import MASK, Place


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path, "1", "2")
    place.anat(f"{MASK}.nii.gz").parent.mkdir(parents=True)
    place.anat(f"{MASK}.nii.gz").touch()
    return place


@pytest.mark.parametrize("name", [f"{MASK}.NII.GZ", f"{CORRECTED}.Nii", f"{CORRECTED.upper()}.nii.gz"])
def test_a_mask_in_capitals_is_not_passed_over(place, name):
    assert editable_masks(place) == [place.anat(f"{MASK}.nii.gz")]
    place.anat(name).touch()
    with pytest.raises(CohortError, match=f"{name} would not be read: rename it to sub-1_ses-2_space-orig_label-L"):
        editable_masks(place)


def test_sidecars_may_begin_with_a_byte_order_mark(place):
    place.anat(f"{MASK}.json").write_text(json.dumps({"Manual": True}), encoding="utf-8-sig")
    place.anat(f"{CORRECTED}.json").write_text(json.dumps({"FLAIR_SHA256": "abc"}), encoding="utf-8-sig")
    assert is_manual(place)
    assert drawn_on(place) == "abc"
