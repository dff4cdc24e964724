import json
import re
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread

from lesiondelta.errors import CohortError, GeometryError, ImageError
from lesiondelta.images import read_image, write_volume
from lesiondelta.inputs.loose import keep_converted, loose_patient
from tests.dicoms import FLAIR, T1W, T2, new_study, speckle, write_series
from tests.places import same_places


def write_study(folder, date="20200301", seed=0, **other):
    study = new_study(date, **other)
    for number, tags in enumerate((T2, T1W, FLAIR)):
        write_series(folder, speckle("oblique", seed=seed + number), study, tags, number)
    return folder


def flairs(patient):
    return [read_image(visit.images["FLAIR"]) for visit in patient.visits]


def test_a_study_becomes_nifti_in_the_same_place(tmp_path):
    patient = loose_patient([(write_study(tmp_path / "a"),)], "x", tmp_path / "out")
    images = patient.visits[0].images
    assert images["T1w"] == tmp_path / "out/sub-x/ses-1/anat/sub-x_ses-1_T1w.nii.gz"
    assert same_places(read_image(images["T1w"]), speckle("oblique", seed=1))
    assert same_places(read_image(images["FLAIR"]), speckle("oblique", seed=2))


def test_the_sidecar_has_times_in_seconds_and_no_person(tmp_path):
    patient = loose_patient([(write_study(tmp_path / "a"),)], "x", tmp_path / "out")
    sidecar = json.loads(patient.visits[0].images["FLAIR"].with_suffix("").with_suffix(".json").read_text())
    assert sidecar.pop("ConversionSoftwareVersion")
    assert sidecar == {
        "Modality": "MR", "Manufacturer": "TEST", "EchoTime": 0.388, "RepetitionTime": 5.0, "InversionTime": 1.8,
        "ConversionSoftware": "highdicom",
    }  # fmt: skip


def test_dates_of_the_headers_order_the_visits(tmp_path):
    late, early = write_study(tmp_path / "a", "20220301", 5), write_study(tmp_path / "b", "20200301")
    patient = loose_patient([(late,), (early,)], "x", tmp_path / "out")
    assert [visit.acquired.year for visit in patient.visits] == [2020, 2022]
    assert same_places(flairs(patient)[0], speckle("oblique", seed=2))


def test_dates_that_are_all_the_same_say_nothing(tmp_path):
    """As those who anonymise leave them."""
    visits = [(write_study(tmp_path / name, "19000101", seed),) for name, seed in (("a", 5), ("b", 0))]
    patient = loose_patient(visits, "x", tmp_path / "out")
    assert [visit.acquired for visit in patient.visits] == [None, None]
    assert same_places(flairs(patient)[0], speckle("oblique", seed=7))


def test_times_of_one_date_say_nothing_either(tmp_path):
    """Some change the dates and leave the times."""
    visits = []
    for seed, time in ((5, "161616"), (0, "111111")):
        visits.append((write_study(tmp_path / time, "19000101", seed, AcquisitionTime=time),))
    patient = loose_patient(visits, "x", tmp_path / "out")
    assert [visit.acquired for visit in patient.visits] == [None, None]
    assert same_places(flairs(patient)[0], speckle("oblique", seed=7))


def test_an_order_that_the_dates_of_some_visits_contradict_is_refused(tmp_path):
    early, late = write_study(tmp_path / "a", "20200301"), write_study(tmp_path / "b", "20220301", 5)
    undated = write_study(tmp_path / "c", "", 3)
    assert len(loose_patient([(early,), (undated,), (late,)], "x", tmp_path / "out").visits) == 3
    with pytest.raises(CohortError, match=r"number 1 is of 2022-03-01, number 3 of 2020-03-01.* in time order"):
        loose_patient([(late,), (undated,), (early,)], "x", tmp_path / "again")


def test_images_exchanged_between_visits_are_noticed(tmp_path):
    a, b = write_study(tmp_path / "a", "20190101"), write_study(tmp_path / "b", "20210101", 5)
    t1w, flair = ({folder: str(next(folder.glob(f"{number}_*"))) for folder in (a, b)} for number in (1, 2))
    visits = [(Path(t1w[a]), Path(flair[b])), (Path(t1w[b]), Path(flair[a]))]
    with pytest.raises(CohortError, match="exchanged between visits: those of 2019-01-01 and 2021-01-01"):
        loose_patient(visits, "x", tmp_path / "out")
    notes = loose_patient(visits[:1], "x", tmp_path / "out").notes
    assert "the T1w and FLAIR of ses-1 were acquired on different days" in notes


def test_studies_of_one_folder_that_differ_in_who_are_refused(tmp_path):
    for name, year in (("a", 2020), ("b", 2021)):
        write_study(tmp_path / "all" / name, f"{year}0101", patient=name, PatientBirthDate="")
    with pytest.raises(CohortError, match="all and what was given with it differ in PatientID"):
        loose_patient([(tmp_path / "all",)], "x", tmp_path / "out")


def test_a_visit_of_two_people_is_refused(tmp_path):
    paths = []
    for name, tags in (("a", T1W), ("b", FLAIR)):
        write_series(tmp_path / name, speckle(), new_study(patient=name, PatientSex=""), tags)
        paths.append(tmp_path / name)
    with pytest.raises(CohortError, match="a and what was given with it differ in PatientID"):
        loose_patient([tuple(paths)], "x", tmp_path / "out")


def test_several_studies_in_one_folder_are_several_visits(tmp_path):
    write_study(tmp_path / "all/x", "20210301", 5)
    write_study(tmp_path / "all/y", "20190301")
    patient = loose_patient([(tmp_path / "all",)], "x", tmp_path / "out")
    assert [visit.acquired.year for visit in patient.visits] == [2019, 2021]


def test_several_studies_without_dates_have_no_order(tmp_path):
    for name, seed in (("x", 5), ("y", 0)):
        write_study(tmp_path / "all" / name, "19000101", seed)
    with pytest.raises(CohortError, match="all holds several studies without dates of their own"):
        loose_patient([(tmp_path / "all",)], "x", tmp_path / "out")


def test_dicom_and_nifti_go_together(tmp_path):
    write_volume(tmp_path / "t1.nii.gz", speckle())
    files = write_series(tmp_path / "flair", speckle("sagittal"), new_study(), FLAIR)
    (visit,) = loose_patient([(tmp_path / "t1.nii.gz", tmp_path / "flair")], "x", tmp_path / "out").visits
    assert visit.images["T1w"] == tmp_path / "t1.nii.gz"
    assert set(visit.dicom) == set(files)


def test_files_name_series_of_one_folder(tmp_path):
    study = new_study()
    write_series(tmp_path / "a", speckle(seed=1), study, T1W, 1)
    again = write_series(tmp_path / "a", speckle(seed=2), study, T1W, 2)
    flair = write_series(tmp_path / "a", speckle(seed=3), study, FLAIR, 3)
    (visit,) = loose_patient([(again[0], flair[5])], "x", tmp_path / "out").visits
    assert same_places(read_image(visit.images["T1w"]), speckle(seed=2))


def test_a_pseudonym_for_each_visit_is_noted(tmp_path):
    visits = [(write_study(tmp_path / name, f"{year}0101", patient=name),) for name, year in (("a", 2020), ("b", 2021))]
    notes = loose_patient(visits, "x", tmp_path / "out").notes
    assert "the DICOM headers of the images differ in PatientID" in notes


def test_several_people_are_refused(tmp_path):
    visits = [(write_study(tmp_path / "a"),), (write_study(tmp_path / "b", patient="2", PatientBirthDate="19700101"),)]
    with pytest.raises(CohortError, match=r"several people .PatientID, PatientBirthDate differ"):
        loose_patient(visits, "x", tmp_path / "out")


def test_a_series_with_a_gap_is_no_visit(tmp_path):
    study = new_study()
    write_series(tmp_path / "a", speckle(), study, T1W, 1)
    write_series(tmp_path / "a", speckle(), study, FLAIR, 2)[5].unlink()
    with pytest.raises(GeometryError, match="lacks 1 of 12 slices"):
        loose_patient([(tmp_path / "a",)], "x", tmp_path / "out")


def test_a_study_given_twice_is_refused(tmp_path):
    study = write_study(tmp_path / "a")
    with pytest.raises(CohortError, match="given more than once"):
        loose_patient([(study,), (study,)], "x", tmp_path / "out")


def test_a_copy_of_a_study_is_refused(tmp_path):
    study = write_study(tmp_path / "a")
    shutil.copytree(study, tmp_path / "b")
    with pytest.raises(CohortError, match="given more than once"):
        loose_patient([(study,), (tmp_path / "b",)], "x", tmp_path / "out")


def test_one_file_is_a_flair_and_nothing_else(tmp_path):
    for name in ("only-one.nii.gz", "t1w.nii.gz"):
        (tmp_path / name).touch()
    (visit,) = loose_patient([(tmp_path / "only-one.nii.gz",)], "x", tmp_path / "out").visits
    assert visit.images == {"FLAIR": tmp_path / "only-one.nii.gz"}
    assert "only-one.nii.gz was given without a T1w" in visit.absent["T1w"]
    with pytest.raises(CohortError, match=r"t1w.nii.gz was given as FLAIR, but its name says T1w"):
        loose_patient([(tmp_path / "t1w.nii.gz",)], "x", tmp_path / "out")


def given(folder, *names):
    paths = tuple(folder / name for name in names)
    for path in paths:
        path.touch()
    return [paths]


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("sub-1_ses-1_FLAIR.nii.gz", "sub-1_ses-1_T1w.nii.gz"), 0),
        (("a.flair.nii", "b.nii"), 0),
        (("a.nii", "MPRAGE-2.nii"), 1),
        (("scan 1 T1.nii", "t1 scan 2.nii"), 1),
        (("flair_1.nii", "flair_2.nii"), 0),
    ],
)
def test_images_that_are_exchanged_by_their_names_are_refused(tmp_path, names, named):
    says = "given as T1w, but its name says FLAIR" if named == 0 else "given as FLAIR, but its name says T1w"
    with pytest.raises(CohortError, match=f"{names[named]} was {says}: --visit takes T1w, then FLAIR"):
        loose_patient(given(tmp_path, *names), "x", tmp_path / "out")


@pytest.mark.parametrize(
    "names",
    [
        ("sub-1_T1w.nii.gz", "sub-1_FLAIR.nii.gz"),
        ("t1_flair_reg.nii", "flair_t1_reg.nii"),
        ("sub-1_space-FLAIR_T1w.nii", "sub-1_space-T1w_FLAIR.nii"),
        ("flairless.nii", "t1000.nii"),
        ("a.nii", "b.nii"),
    ],
)
def test_names_that_say_both_contrasts_or_none_say_nothing(tmp_path, names):
    """Nor does the name of their folder."""
    (tmp_path / "flair").mkdir()
    pair = given(tmp_path / "flair", *names)
    (visit,) = loose_patient(pair, "x", tmp_path / "out").visits
    assert tuple(visit.images.values()) == pair[0]


def test_a_header_that_contradicts_the_name_is_flagged(tmp_path):
    """A T2w is given as T1w, by the name of its folder only."""
    study = new_study()
    for number, (name, tags) in enumerate({"a": T2, "b": FLAIR}.items(), 4):
        write_series(tmp_path / name, speckle("oblique", seed=number), study, tags, number)
    (visit,) = loose_patient([(tmp_path / "a", tmp_path / "b")], "x", tmp_path / "out").visits
    assert visit.doubts == (
        "DICOM series 4 was given as T1w, but its header has an echo time of 96 ms, as a T2w or a FLAIR has: see "
        "whether it is the T1w.",
    )


def doubts_of(folder, last, *deleted, **tags):
    """Of a study whose FLAIR differs in its last images."""
    study = new_study()
    write_series(folder / "a", speckle(seed=1, shape=(6, 6, 16)), study, T1W, 1)
    for path in write_series(folder / "a", speckle(seed=2, shape=(6, 6, 16)), study, FLAIR, 2)[-last:]:
        image = dcmread(path)
        for name in deleted:
            del image[name]
        for name, value in tags.items():
            setattr(image, name, value)
        image.save_as(path)
    (visit,) = loose_patient([(folder / "a",)], "x", folder / "out").visits
    return read_image(visit.images["FLAIR"]).data.shape[2], visit.doubts


def test_images_that_continue_a_stack_and_were_not_used_are_said(tmp_path):
    slices, (doubt,) = doubts_of(tmp_path, 4, EchoTime=500)
    assert slices == 12
    assert re.fullmatch(
        r"4 images of DICOM series 2 \(such as 2_\d+\), which continue the stack of the FLAIR, were not used", doubt
    )


def test_images_without_a_place_that_were_not_used_are_said(tmp_path):
    slices, (doubt,) = doubts_of(tmp_path, 4, "ImagePositionPatient", ImageType=["ORIGINAL", "PRIMARY", "M", "NORM"])
    assert slices == 12
    assert re.match(r"4 images of DICOM series 2 .* which may continue the stack of the FLAIR, were not used", doubt)


def test_phase_images_that_were_not_used_are_not_said(tmp_path):
    assert doubts_of(tmp_path, 4, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]) == (12, ())


def test_parts_that_were_put_together_are_said(tmp_path):
    assert doubts_of(tmp_path, 4, "EchoTime", ImageType=["ORIGINAL", "PRIMARY", "M", "NORM"]) == (
        16,
        (
            "the images of the FLAIR differ in EchoTime and ImageType: they were used as one series, since they lie in "
            "one stack",
        ),
    )


def test_pixels_that_are_declared_as_inverted_are_said(tmp_path):
    assert doubts_of(tmp_path, 16, PhotometricInterpretation="MONOCHROME1") == (
        16,
        ("the pixels of the FLAIR are declared as inverted (low values are white): they were used as stored",),
    )


def test_images_of_another_person_within_a_series_are_refused(tmp_path):
    with pytest.raises(CohortError, match=r"several people .PatientID, PatientSex differ"):
        doubts_of(tmp_path, 4, PatientID="2", PatientSex="M")


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match="nowhere does not exist"):
        loose_patient([(tmp_path / "nowhere",)], "x", tmp_path / "out")


def test_what_was_converted_is_kept_elsewhere(tmp_path):
    patient = loose_patient([(write_study(tmp_path / "a"),)], "x", tmp_path / "temporary")
    kept = keep_converted(patient, tmp_path / "temporary", tmp_path / "out")
    assert kept.visits[0].images["FLAIR"].is_relative_to(tmp_path / "out")
    assert same_places(flairs(kept)[0], flairs(patient)[0])


def test_one_identifier_for_all_images_is_no_copy(tmp_path):
    """As some who anonymise leave it, with blank images at the ends of both series."""
    study = new_study()
    for number, tags in enumerate((T1W, FLAIR)):
        volume = speckle(seed=number)
        volume.data[..., [0, -1]] = 0
        write_series(tmp_path / "a", volume, study, tags | {"SOPInstanceUID": "1.2.3"}, number)
    (visit,) = loose_patient([(tmp_path / "a",)], "x", tmp_path / "out").visits
    assert read_image(visit.images["FLAIR"]).data.shape == (20, 24, 12)


def test_folders_of_nifti_files_are_to_be_given_by_file(tmp_path):
    write_volume(tmp_path / "t1.nii.gz", speckle())
    with pytest.raises(CohortError, match=r"give the two NIfTI files, --visit T1w.nii.gz FLAIR.nii.gz"):
        loose_patient([(tmp_path,)], "x", tmp_path / "out")


@pytest.mark.parametrize("name", ["a.dcm.gz", "a.zip"])
def test_packed_images_are_to_be_unpacked(name, tmp_path):
    with pytest.raises(ImageError, match=f"{name} is packed: unpack it"):
        loose_patient(given(tmp_path, name, "b.nii"), "x", tmp_path / "out")


def dated(folder, dates, **tags):
    """Studies of these dates, given in this order; the years of the visits in the order found."""
    visits = []
    for number, date in enumerate(dates):
        other = {name: values[number] for name, values in tags.items()}
        visits.append((write_study(folder / str(number), date, number * 5, **other),))
    patient = loose_patient(visits, "x", folder / "out")
    return [visit.acquired and visit.acquired.year for visit in patient.visits]


@pytest.mark.parametrize("stamp", ["19000101000000", "20100101000000"])
def test_a_kind_of_date_that_is_the_same_at_all_visits_does_not_hide_another(stamp, tmp_path):
    dates = ["20220301", "20200301"]
    assert dated(tmp_path / "a", dates, AcquisitionDateTime=[stamp] * 2) == [2020, 2022]
    assert dated(tmp_path / "b", dates, AcquisitionDate=["20100101"] * 2) == [2020, 2022]


def test_dates_that_were_all_shifted_order_the_visits(tmp_path):
    assert dated(tmp_path / "a", ["19070301", "19050301"]) == [1905, 1907]


def test_a_shifted_date_beside_a_real_one_says_nothing(tmp_path):
    assert dated(tmp_path / "a", ["20200301", "19050301"]) == [None, None]


def test_slices_that_may_be_missing_are_said(tmp_path):
    study = write_study(tmp_path / "a")
    for path in study.glob("2_*"):
        image = dcmread(path)
        image.SpacingBetweenSlices = 1.5
        del image.InstanceNumber
        image.save_as(path)
    (visit,) = loose_patient([(study,)], "x", tmp_path / "out").visits
    assert visit.doubts == (
        "the slices of the FLAIR lie 3 mm apart although the headers say 1.5 mm: every second slice may be missing",
    )


def test_the_other_half_of_a_stack_is_said_whatever_its_number(tmp_path):
    study = new_study()
    t1w = write_series(tmp_path / "a", speckle(), study, T1W, 1)
    flair = write_series(tmp_path / "a", speckle(), study, FLAIR, 2)
    for path in flair[1::2]:
        image = dcmread(path)
        image.SeriesInstanceUID, image.SeriesNumber = "1.2.3", 3
        image.save_as(path)
    (visit,) = loose_patient([(t1w[0], flair[0])], "x", tmp_path / "out").visits
    assert [re.sub(r"2_\d+", "FILE", doubt) for doubt in visit.doubts] == [
        "6 images of DICOM series 3 (such as FILE), which continue the stack of the FLAIR, were not used"
    ]
