"""What users of other tools have reported: each is given here, and has the right value or the right sentence."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.files import small_content, write_json
from lesiondelta.images import Volume, read_image, read_mask, require_same_grid, write_volume
from lesiondelta.inputs import sidecars
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.bids_names import read_filters
from lesiondelta.inputs.dicom import find_series, read_series
from tests.dicoms import FLAIR, new_study, speckle, write_series
from tests.tiny import image_path, write_patient

AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
DATA = np.random.default_rng(0).integers(1, 1000, (10, 12, 14)).astype(np.int16)


def saved(path, data=DATA, affine=AFFINE):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_scale_of_nothing_is_none(tmp_path, slope):
    """scl_slope 0 or NaN: other tools read zeros."""
    path = saved(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(slope).tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path).data, DATA)


@pytest.mark.parametrize("data", [DATA > 500, DATA.astype(np.int32), DATA.astype(np.float32)])
def test_masks_and_maps_have_a_scale_that_every_viewer_reads(tmp_path, data):
    """Masks with scl_slope NaN are empty to FSL and an error to MRIcron."""
    write_volume(tmp_path / "m.nii.gz", Volume(data, AFFINE))
    header = gzip.decompress((tmp_path / "m.nii.gz").read_bytes())[:348]
    np.testing.assert_array_equal(np.frombuffer(header[112:120], np.float32), [1, 0])


def test_permuted_axes_by_the_qform_alone(tmp_path):
    """A sform of code 0 holds rubbish; what is written on the grid has the same two forms."""
    affine = np.array([[0, 0, -1.2, 40], [-1.0, 0, 0, 60], [0, 1.0, 0, -50], [0, 0, 0, 1]])
    image = nib.Nifti1Image(DATA, None)
    image.set_qform(affine, 1)
    image.header["sform_code"], image.header["srow_x"] = 0, [1, 0, 0, 0]
    nib.save(image, tmp_path / "q.nii")
    read = read_image(tmp_path / "q.nii")
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    write_volume(tmp_path / "mask.nii.gz", read.with_data(read.data > 500))
    mask = read_mask(tmp_path / "mask.nii.gz")
    require_same_grid(mask, read)
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 1)


def test_a_fourth_axis_of_one_is_none(tmp_path):
    read = read_image(saved(tmp_path / "a.nii", DATA[..., None]))
    write_volume(tmp_path / "mask.nii.gz", read.with_data(read.data > 500))
    assert nib.load(tmp_path / "mask.nii.gz").shape == DATA.shape


def test_complex_numbers_and_colours_are_refused(tmp_path):
    with pytest.raises(ImageError, match="holds complex numbers: give the grey image of magnitudes"):
        read_image(saved(tmp_path / "c.nii", DATA.astype(np.complex64)))
    colours = np.zeros(DATA.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ImageError, match="holds colours"):
        read_image(saved(tmp_path / "rgb.nii", colours))


def test_names_in_capitals_are_images(tmp_path):
    write_patient(tmp_path, "01", ("1",))
    path = image_path(tmp_path, "01", "1", "T1w")
    path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    (patient,) = read_cohort(tmp_path).patients
    assert read_image(patient.visits[0].images["T1w"]).data.any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"t1w": {"acquisition": “regmask”}}', "cannot be read as JSON"),
        ('{"t1": {"acquisition": "mprage"}}', "neither t1w nor flair"),
        ('{"t1w": {"aquisition": "mprage"}}', "aquisition, which is no BIDS entity"),
    ],
)
def test_a_filter_file_with_a_slip_is_named(tmp_path, text, said):
    (tmp_path / "filter.json").write_text(text, encoding="utf-8")
    with pytest.raises(CohortError, match=said):
        read_filters(tmp_path / "filter.json")


def test_a_filter_that_nothing_fits_does_not_call_images_absent(tmp_path):
    write_patient(tmp_path, "01", ("1",))
    filters = {"T1w": {"acq": "other"}}
    (patient,) = read_cohort(tmp_path, filters=filters).patients
    assert (
        "none of sub-01_ses-1_T1w.nii.gz fits the filter for T1w: correct --bids-filter-file" in patient.problems["1"]
    )
    (patient,) = read_cohort(tmp_path, filters={"T1w": {"extension": ".nii.gz"}}).patients
    assert not patient.problems


def test_an_image_packed_and_unpacked_is_one_too_many(tmp_path):
    write_patient(tmp_path, "01", ("1",))
    path = image_path(tmp_path, "01", "1", "FLAIR")
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    (patient,) = read_cohort(tmp_path).patients
    assert "has one FLAIR image twice" in patient.problems["1"]
    (patient,) = read_cohort(tmp_path, filters={"FLAIR": {"extension": ".nii"}}).patients
    assert patient.visits[0].images["FLAIR"].suffix == ".nii"


@pytest.mark.parametrize("filters", [{"modality": None}, {"extension": "nii.gz"}, {"hemisphere": None}])
def test_a_filter_of_fmriprep_is_understood(tmp_path, filters):
    write_patient(tmp_path, "01", ("1",))
    (tmp_path / "filter.json").write_text(json.dumps({"t1w": filters, "bold": {"task": "rest"}}))
    (patient,) = read_cohort(tmp_path, filters=read_filters(tmp_path / "filter.json")).patients
    assert not patient.problems


@pytest.mark.parametrize("said", ["NONE", "n/a", ""])
def test_no_contrast_agent_is_none(tmp_path, said):
    write_patient(tmp_path, "01", ("1",))
    sidecar = image_path(tmp_path, "01", "1", "T1w").with_name("sub-01_ses-1_T1w.json")
    sidecar.write_text(json.dumps({"ContrastBolusIngredient": said}))
    assert read_cohort(tmp_path).patients[0].visits[0].doubts == ()


@pytest.mark.parametrize("how", ["quaternion", "sform", "qform"])
def test_rubbish_in_the_form_that_is_not_used_does_no_harm(tmp_path, how):
    image = nib.Nifti1Image(DATA, AFFINE)
    image.set_sform(AFFINE, 0 if how == "sform" else 1)
    image.set_qform(AFFINE, 0 if how == "qform" else 1)
    if how == "quaternion":
        image.header["quatern_b"], image.header["quatern_c"] = 0.9, 0.9
    else:
        image.header["srow_x" if how == "sform" else "qoffset_x"] = np.nan
    nib.save(image, tmp_path / "a.nii")
    if how == "sform":  # nibabel mends it
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[254:256], content[280:284] = np.int16(0).tobytes(), np.float32(np.nan).tobytes()
        (tmp_path / "a.nii").write_bytes(content)
    read = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-5)
    write_json(tmp_path / "grid.json", {"forms": read.grid.forms})
    write_volume(tmp_path / "mask.nii.gz", read.with_data(read.data > 500))
    require_same_grid(read_mask(tmp_path / "mask.nii.gz"), read)


@pytest.mark.parametrize("how", ["entity", "sidecar"])
def test_a_contrast_agent_is_flagged(tmp_path, how):
    write_patient(tmp_path, "01", ("1",))
    path = image_path(tmp_path, "01", "1", "T1w")
    if how == "entity":
        path.rename(path.with_name("sub-01_ses-1_ce-gadolinium_T1w.nii.gz"))
    else:
        path.with_name("sub-01_ses-1_T1w.json").write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    (patient,) = read_cohort(tmp_path).patients
    (doubt,) = patient.visits[0].doubts
    assert "the T1w was acquired with a contrast agent (gadolinium)" in doubt.lower().replace("t1w", "T1w")


def doubts_of(folder):
    return [visit.doubts for patient in read_cohort(folder).patients for visit in patient.visits]


def test_a_sidecar_that_contradicts_the_name_is_flagged(tmp_path):
    write_patient(tmp_path, "01", ("1", "2"))
    path = image_path(tmp_path, "01", "2", "FLAIR").with_name("sub-01_ses-2_FLAIR.json")
    path.write_text('{"EchoTime": 0.003, "Operator": "M\\u00fcller"}')
    sentence = (
        "sub-01_ses-2_FLAIR.nii.gz was given as FLAIR, but its sidecar has an echo time of 3 ms, as a T1w has: see "
        "whether it is the FLAIR."
    )
    assert doubts_of(tmp_path) == [(), (sentence,)]
    for encoding in ("latin-1", "utf-8-sig"):
        path.write_text('{"EchoTime": 0.003, "Operator": "M\u00fcller"}', encoding=encoding)
        assert doubts_of(tmp_path) == [(), (sentence,)]


@pytest.mark.parametrize(
    ("sidecars", "flagged"),
    [
        ({"FLAIR.json": 0.003}, ["1", "2"]),
        ({"sub-01/sub-01_FLAIR.json": 0.003}, ["1", "2"]),
        ({"sub-01/ses-2/sub-01_ses-2_FLAIR.json": 0.003}, ["2"]),
        ({"sub-01/ses-2/anat/sub-01_FLAIR.json": 0.003}, ["2"]),
        ({"sub-01_ses-1_FLAIR.json": 0.003}, ["1"]),
        ({"FLAIR.json": 0.003, "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.json": 0.12}, ["1"]),
        ({"FLAIR.json": 0.12, "sub-01_FLAIR.json": 0.003}, ["1", "2"]),
        ({"FLAIR.json": 0.003, "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.json": None}, ["1"]),
        ({"T1w.json": 0.003, "sub-02_FLAIR.json": 0.003, "acq-a_FLAIR.json": 0.003, "_FLAIR.json": 0.003}, []),
        ({"sub-01/ses-1/anat/sub-01_ses-2_FLAIR.json": 0.003, "sourcedata/FLAIR.json": 0.003}, []),
    ],
)
def test_sidecars_are_inherited(tmp_path, monkeypatch, sidecars, flagged):
    write_patient(tmp_path, "01", ("1", "2"))
    for name, echo in sidecars.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"EchoTime": echo}))
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, "."):
        (patient,) = read_cohort(Path(folder)).patients
        assert [visit.label for visit in patient.visits if visit.doubts] == flagged


def test_a_contrast_agent_is_inherited(tmp_path):
    write_patient(tmp_path, "01", ("1",))
    (tmp_path / "T1w.json").write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    assert doubts_of(tmp_path) == [("the T1w was acquired with a contrast agent (GADOLINIUM)",)]


def test_a_sidecar_is_read_once(tmp_path, monkeypatch):
    for label in ("01", "02"):
        write_patient(tmp_path, label, ("1", "2"))
    names = ["FLAIR.json", "T1w.json", "sub-01/sub-01_FLAIR.json", "sub-02/ses-2/anat/sub-02_ses-2_T1w.json"]
    for name in names:
        (tmp_path / name).write_text("{}")
    read = []
    monkeypatch.setattr(sidecars, "small_content", lambda path: (read.append(path), small_content(path))[1])
    read_cohort(tmp_path)
    assert sorted(read) == sorted(tmp_path / name for name in names)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"null", b"{", b"\xff\xfe{\0}\0", b"[" * 100_000, b"folder", b"link"]
)
def test_a_sidecar_that_cannot_be_read_is_passed_over(tmp_path, content):
    write_patient(tmp_path, "01", ("1",))
    path = image_path(tmp_path, "01", "1", "FLAIR").with_name("sub-01_ses-1_FLAIR.json")
    if content == b"folder":
        path.mkdir()
    elif content == b"link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    assert doubts_of(tmp_path) == [()]


@pytest.fixture
def series(tmp_path):
    volume = speckle()
    return tmp_path / "dicom", write_series(tmp_path / "dicom", volume, new_study(), FLAIR), volume


def rewritten(path, **tags):
    image = dcmread(path)
    for name, value in tags.items():
        setattr(image, name, value)
    image.save_as(path)


def test_slices_without_a_number_are_ordered_by_their_place(series):
    folder, paths, volume = series
    for path in paths:
        image = dcmread(path)
        del image.InstanceNumber
        image.save_as(path)
    np.testing.assert_array_equal(read_series(*find_series(folder)).data, volume.data[:, :, ::-1])


def test_downloads_repeated_by_a_browser_are_copies(series):
    folder, paths, volume = series
    for path in paths[:3]:
        shutil.copy(path, path.with_name(f"{path.name}(1)"))
    np.testing.assert_array_equal(read_series(*find_series(folder)).data, volume.data[:, :, ::-1])


def test_places_that_are_rubbish_are_no_volume(series):
    folder, paths, _ = series
    rewritten(paths[-1], ImagePositionPatient=["-20", "15", "3.4e9"])
    with pytest.raises(GeometryError, match=r"uneven distances|lacks"):
        read_series(*find_series(folder))


def test_two_stacks_at_two_angles_in_one_series_are_named(series):
    folder, paths, _ = series
    other = write_series(folder.parent / "other", speckle("oblique", seed=3), new_study(), FLAIR)
    uid = dcmread(paths[0]).SeriesInstanceUID
    for path in other:
        rewritten(path, SeriesInstanceUID=uid, SOPInstanceUID=generate_uid())
        shutil.move(path, folder / f"other{path.name}")
    with pytest.raises(GeometryError, match=r"no common frame of reference|several angles, such as"):
        read_series(*find_series(folder))
