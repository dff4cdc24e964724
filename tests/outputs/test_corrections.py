"""Files of corrected masks as readers and their programs leave them."""

import json

import pytest

from lesiondelta.errors import CohortError
from lesiondelta.outputs.corrections import CORRECTED, derived_files, drawn_on, is_manual, require_read
from lesiondelta.outputs.derivatives import EXTRAS, MASK, PatientFiles, Place, visit_files
from lesiondelta.outputs.lesions import map_files
from lesiondelta.outputs.segmentations import segmentation_files


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path, "1", "2")
    place.anat(f"{MASK}.nii.gz").parent.mkdir(parents=True)
    place.anat(f"{MASK}.nii.gz").touch()
    return place


@pytest.mark.parametrize(
    "name",
    [
        f"{MASK}.NII.GZ", f"{CORRECTED}.Nii", f"{CORRECTED.upper()}.nii.gz",
        f"{MASK}.nrrd", f"{MASK}.seg.nrrd", f"{CORRECTED}.mha", f"{MASK}.img", f"{MASK}.gipl.gz", f"{MASK}.mgz",
        f"{MASK} (1).nii.gz", f"{MASK}_edited.nii.gz", f"{MASK} copy.nii", "space-orig_label-L_desc-manual_mask.nii.gz",
        "space-orig_label-L_Desc-Corrected_mask.nii.gz", "label-L_desc-corrected_mask.nii.gz",
        "space-orig_desc-corrected_label-L_mask.nii.gz", "lesions.nii.gz", "FLAIR-label.nrrd", "FLAIR_edited.nii.gz",
        *(f"{name}.nii.gz" for name in ("desc-fixed", "correction", "roi", "WMH", "final", "reader1", "annotation")),
        *(f"{name}.nii.gz" for name in ("plaques", "les", "FLAIR_MS", "Untitled", "space-orig_L", "T2w")),
        f"{MASK}.mif", f"{MASK}.zip", f"{MASK}.nii.zip", "ROI.nrrd", "ROI.mgh", "ROI.mhd", "ROI.hdr", "ROI.dcm",
        "space-orig_seg-lesions_dseg.nrrd", "space-orig_seg-change_desc-from1_desc-new_dseg.nii.gz",
    ],
)  # fmt: skip
def test_a_mask_that_nothing_reads_is_not_passed_over(place, name):
    patient = PatientFiles(place.out, place.patient)
    require_read(patient)
    place.anat(name).touch()
    with pytest.raises(CohortError, match=r"is not read: if it corrects a mask, save it as .*/sub-1_ses-2_space-orig_"):
        require_read(patient)
    require_read(patient, [place.anat(name).relative_to(place.out).as_posix()])  # of an earlier version


@pytest.mark.parametrize(
    "name",
    [
        "Segmentation.seg.nrrd", "ses-2/lesion.nii.gz", "anat/mask.nii", "ses-1/anat/sub-1_ses-2_label-L_mask.nii.gz",
        f"ses-1/anat/sub-1_ses-2_{MASK}.nii.gz", f"ses-2/anat/{MASK}.nii.gz", f"ses-2/sub-1_ses-2_{CORRECTED}.nii.gz",
        f"ses-2/anat/sub-3_ses-2_{CORRECTED}.nii.gz",
    ],
)  # fmt: skip
def test_a_mask_is_not_passed_over_wherever_it_lies(place, name):
    path = place.out / "sub-1" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with pytest.raises(CohortError, match="is not read"):
        require_read(PatientFiles(place.out, "1"))


@pytest.mark.parametrize("name", [f"sub-1_ses-2_{CORRECTED}.nii.gz", f"sub-1_ses-2_{MASK}.nii", "sub-1_ROI.nrrd"])
def test_a_mask_beside_the_patients_folder_is_not_passed_over(place, name):
    (place.out / name).touch()
    with pytest.raises(
        CohortError, match=f"{name} is not read: if it corrects a mask, save it as .*/sub-1/.*else take"
    ):
        require_read(PatientFiles(place.out, "1"))
    require_read(PatientFiles(place.out, "01"))  # of another patient


@pytest.mark.parametrize("visits", [("1", "2", "m06"), ("",), ("", "2")])
@pytest.mark.parametrize("patient", ["1", "lesion01"])
def test_no_output_is_taken_for_a_mask_that_nothing_reads(tmp_path, visits, patient):
    """All that is written at any option, and what else may lie beside it."""
    files = PatientFiles(tmp_path, patient)
    require_read(files)
    for place in map(files.visit, visits):
        outputs = [*visit_files(place, ("T1w", "FLAIR"), EXTRAS), *map_files(place, [*visits, "gone"])]
        corrected = [place.anat(f"{name}{suffix}") for name in (MASK, CORRECTED) for suffix in (".nii", ".nii.gz")]
        others = [place.anat(name) for name in ("notes.txt", "lesions.xlsx", f"{CORRECTED}.json")]
        hidden = [path.with_name(f"._{path.name}") for path in corrected]
        for path in (*outputs, *segmentation_files(place), *corrected, *others, *hidden, files.report, files.log):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    require_read(files)


def test_readers_may_edit_any_image_but_the_mask_by_mistake(place):
    """Edits of all of them are noticed: maps, differences, images in the patient's space, extras of some models."""
    outputs = [*visit_files(place, ("T1w", "FLAIR"), EXTRAS), *map_files(place, ["1", "0"]), *segmentation_files(place)]
    for path in (*outputs, place.anat(f"{CORRECTED}.nii.gz"), place.anat(f"{MASK}.nii")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    images = [path for path in outputs if path.name.endswith((".nii.gz", ".seg.nrrd", ".dcm"))]
    assert {*derived_files(place)} == {*images} - {place.anat(f"{MASK}.nii.gz")}


def test_sidecars_may_begin_with_a_byte_order_mark(place):
    place.anat(f"{MASK}.json").write_text(json.dumps({"Manual": True}), encoding="utf-8-sig")
    place.anat(f"{CORRECTED}.json").write_text(json.dumps({"FLAIR_SHA256": "abc"}), encoding="utf-8-sig")
    assert is_manual(place)
    assert drawn_on(place) == "abc"
