import shutil

import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from lesiondelta.errors import CohortError
from lesiondelta.inputs.dicom import find_series
from lesiondelta.inputs.studies import choose_visits, named_series, unsuitable, weighting
from tests.dicoms import FLAIR, LOCALISER, T1W, T2, new_study, speckle, write_enhanced, write_series

SMALL = speckle(shape=(6, 6, 12))
SEQUENCES = {
    # Siemens, GE and Philips protocols as their headers give them; times in ms
    "MPRAGE": (T1W, "T1w"),
    "SPACE FLAIR": (FLAIR, "FLAIR"),
    "BRAVO": ({"SeriesDescription": "Sag 3D BRAVO", "ScanningSequence": "GR", "EchoTime": 3.2, "RepetitionTime": 8.2,
               "InversionTime": 450, "FlipAngle": 12}, "T1w"),
    "3D TFE without inversion time": ({"SeriesDescription": "3D_T1_TFE", "ScanningSequence": "GR", "EchoTime": 3.7,
                                       "RepetitionTime": 8.1, "FlipAngle": 8}, "T1w"),
    "spin echo T1": ({"SeriesDescription": "Ax SE", "ScanningSequence": "SE", "EchoTime": 11, "RepetitionTime": 550},
                     "T1w"),
    "GE T1 FLAIR": ({"SeriesDescription": "Ax T1 FLAIR", "ScanningSequence": ["SE", "IR"], "EchoTime": 24,
                     "RepetitionTime": 2500, "InversionTime": 860}, "T1w"),
    "2D FLAIR": ({"SeriesDescription": "Ax T2 FLAIR FS", "ScanningSequence": ["SE", "IR"], "EchoTime": 119,
                  "RepetitionTime": 9000, "InversionTime": 2470}, "FLAIR"),
    "FLAIR without inversion time": ({"SeriesDescription": "3D_FLAIR", "ScanningSequence": "SE", "EchoTime": 340,
                                      "RepetitionTime": 4800}, "FLAIR"),
    "T2": (T2, None),
    "PD": ({"SeriesDescription": "pd", "ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 3000}, None),
    "STIR": ({"SeriesDescription": "tirm", "ScanningSequence": ["SE", "IR"], "EchoTime": 65, "RepetitionTime": 4000,
              "InversionTime": 160}, None),
    "DIR": ({"SeriesDescription": "t2_spc_dir", "ScanningSequence": ["SE", "IR"], "EchoTime": 325,
             "RepetitionTime": 7500, "InversionTime": 3000}, None),
    "TOF": ({"SeriesDescription": "TOF_3D", "ScanningSequence": "GR", "EchoTime": 3.7, "RepetitionTime": 21,
             "FlipAngle": 18}, None),
    "gradient echo of small flip angle": ({"SeriesDescription": "gre", "ScanningSequence": "GR", "EchoTime": 4,
                                           "RepetitionTime": 20, "FlipAngle": 4}, None),
    "EPI diffusion": ({"SeriesDescription": "ep2d_diff_b1000", "ScanningSequence": "EP", "EchoTime": 90,
                       "RepetitionTime": 5000}, None),
    "T1w whose times were taken away": ({"SeriesDescription": "T1_MPRAGE"}, "T1w"),
    "FLAIR whose times were taken away": ({"SeriesDescription": "T2 FLAIR"}, "FLAIR"),
    "nothing known": ({"SeriesDescription": "series"}, None),
    "localiser": (LOCALISER, None),
    "Philips FLAIR": ({"SeriesDescription": "3D_Brain_VIEW_FLAIR_SHC", "ScanningSequence": "IR", "EchoTime": 279,
                       "RepetitionTime": 4800, "InversionTime": 1650, "ImageType": ["ORIGINAL", "PRIMARY", "M_IR", "M",
                       "IR"]}, "FLAIR"),
    "GE CUBE FLAIR": ({"SeriesDescription": "Sag CUBE T2 FLAIR", "ProtocolName": "MS BRAIN W/WO",
                       "ScanningSequence": ["SE", "IR"], "EchoTime": 115, "RepetitionTime": 6500,
                       "InversionTime": 1750, "FlipAngle": 90}, "FLAIR"),
    "Philips TFE": ({"SeriesDescription": "sT1W_3D_TFE", "ScanningSequence": "GR", "EchoTime": 3.4,
                     "RepetitionTime": 7.5, "InversionTime": 934, "FlipAngle": 8}, "T1w"),
    "T1 SPACE": ({"SeriesDescription": "t1_space_sag_p2_iso", "SequenceName": "*spc_44ns", "ScanningSequence": "SE",
                  "EchoTime": 11, "RepetitionTime": 600, "FlipAngle": 120}, "T1w"),
    # What has the times of a T1w or a FLAIR, but is neither
    "T2 of an examination called FLAIR": ({"SeriesDescription": "Ax T2 FSE", "ProtocolName": "MS BRAIN FLAIR",
                                           "ScanningSequence": "SE", "EchoTime": 100, "RepetitionTime": 4500}, None),
    "DIR in 3D": (FLAIR | {"SeriesDescription": "t2_spc_dir3d_sag", "InversionTime": 3000}, None),
    "T2* of Siemens": ({"SeriesDescription": "t2_fl2d_tra_hemo", "ScanningSequence": "GR", "EchoTime": 19.9,
                        "RepetitionTime": 620, "FlipAngle": 20}, None),
    "T2* without a telling name": ({"SeriesDescription": "Mag_Images", "ScanningSequence": "GR", "EchoTime": 20,
                                    "RepetitionTime": 27, "FlipAngle": 15}, None),
    "T2* whose times were taken away": ({"SeriesDescription": "T2 flash"}, None),
    "field map": ({"SeriesDescription": "gre_field_mapping", "ScanningSequence": "GR", "EchoTime": 4.92,
                   "RepetitionTime": 488, "FlipAngle": 60}, None),
    "CISS": ({"SeriesDescription": "ciss3d_tra", "ScanningSequence": "GR", "EchoTime": 2.6, "RepetitionTime": 5.9,
              "FlipAngle": 70}, None),
    "scout": ({"SeriesDescription": "AAHScout", "ScanningSequence": "GR", "EchoTime": 1.37, "RepetitionTime": 3.15,
               "FlipAngle": 8}, None),
    "calibration": ({"SeriesDescription": "ASSET calibration", "ScanningSequence": "GR", "EchoTime": 1.6,
                     "RepetitionTime": 150, "FlipAngle": 50}, None),
    "resting state": ({"SeriesDescription": "REST_AP", "ScanningSequence": "EP", "EchoTime": 37, "RepetitionTime": 800,
                       "FlipAngle": 52}, None),
    "magnetisation transfer": ({"SeriesDescription": "gre_MT_on", "ScanningSequence": "GR", "EchoTime": 11,
                                "RepetitionTime": 30, "FlipAngle": 15}, None),
    "neck": ({"SeriesDescription": "T1 TSE sag HWS", "ScanningSequence": "SE", "EchoTime": 10, "RepetitionTime": 600,
              "FlipAngle": 150}, None),
    "map of MP2RAGE": (T1W | {"SeriesDescription": "t1_mp2rage_sag_T1_Images"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_tags_say_the_contrast(name, tmp_path):
    tags, contrast = SEQUENCES[name]
    write_series(tmp_path, SMALL, new_study(), tags)
    assert weighting(find_series(tmp_path)[0]) == contrast


def test_a_phase_image_of_a_multi_frame_file_is_no_magnitude(tmp_path):
    write_enhanced(tmp_path / "one.dcm", SMALL, new_study() | {"ComplexImageComponent": "PHASE"}, FLAIR)
    (series,) = find_series(tmp_path)
    assert weighting(series) == "FLAIR"
    assert unsuitable(series) == "no magnitude"


def test_gradient_echoes_of_multi_frame_files_are_known(tmp_path):
    tags = {"SeriesDescription": "x", "EchoTime": 20, "RepetitionTime": 600, "InversionTime": 0}
    for pulses, contrast in (("SPIN", "T1w"), ("GRADIENT", None)):
        write_enhanced(tmp_path / pulses / "one.dcm", SMALL, new_study() | {"EchoPulseSequence": pulses}, tags)
        assert weighting(find_series(tmp_path / pulses)[0]) == contrast


UNSUITABLE = {
    "contrast agent in its tag": ({"ContrastBolusAgent": "Gadovist"}, "contrast agent"),
    "contrast agent in its name": ({"SeriesDescription": "t1_mprage +C"}, "contrast agent"),
    "no contrast agent, in words": ({"SeriesDescription": "t1 pre contrast", "ContrastBolusAgent": "NONE"}, ""),
    "phase": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "no magnitude"),
    "localiser": (LOCALISER, "localiser"),
    "plain": ({}, ""),
    "contrast agent by its amount": ({"ContrastBolusVolume": 8}, "contrast agent"),
    "amount of none": ({"ContrastBolusVolume": 0, "ContrastBolusTotalDose": 0}, ""),
    "agent in an examination with and without": (
        {"SeriesDescription": "Ax T1 +C", "ProtocolName": "BRAIN W/WO CONTRAST"},
        "contrast agent",
    ),
    "no agent in an examination with and without": ({"ProtocolName": "BRAIN W/WO CONTRAST"}, ""),
    "agent, and no of something else": ({"SeriesDescription": "T1 POST no FS"}, "contrast agent"),
    "agent in one word": ({"SeriesDescription": "t1_mprage_postgad"}, "contrast agent"),
    "agent in German": ({"SeriesDescription": "t1_mprage_nachKM"}, "contrast agent"),
    "agent as a plus": ({"SeriesDescription": "T1W+"}, "contrast agent"),
    "agent behind T1": ({"SeriesDescription": "3D T1GD"}, "contrast agent"),
    "posterior": ({"SeriesDescription": "t1 posterior"}, ""),
    "subtraction": ({"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]}, "computed"),
    "projection": ({"ImageType": ["DERIVED", "PRIMARY", "MIN_IP"]}, "computed"),
    "phase in a tag of its own": ({"ComplexImageComponent": "PHASE"}, "no magnitude"),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_is_never_chosen(name, tmp_path):
    tags, why = UNSUITABLE[name]
    write_series(tmp_path, SMALL, new_study(), T1W | tags)
    assert unsuitable(find_series(tmp_path)[0]) == why


def write_study(folder, study, *series):
    for number, tags in enumerate(series, start=1):
        write_series(folder, SMALL, study, tags, number)


def numbers(visits):
    return [[int(visit[name].value("SeriesNumber")) for name in ("T1w", "FLAIR")] for visit in visits]


ENHANCED_T1W = T1W | {"ContrastBolusAgent": "Gd"}
REFORMATTED = T1W | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}


def test_t1w_and_flair_are_found_among_other_series(tmp_path):
    write_study(tmp_path, new_study(), LOCALISER, T2, FLAIR, ENHANCED_T1W, REFORMATTED, T1W)
    assert numbers(choose_visits(tmp_path)) == [[6, 3]]


def test_a_reformatted_series_is_taken_where_it_is_the_only_one(tmp_path):
    write_study(tmp_path, new_study(), FLAIR, REFORMATTED)
    assert numbers(choose_visits(tmp_path)) == [[2, 1]]


def test_every_study_of_a_folder_is_a_visit(tmp_path):
    for year in ("2021", "2019"):
        write_study(tmp_path / year, new_study(f"{year}0101"), T1W, FLAIR)
    assert numbers(choose_visits(tmp_path)) == [[1, 2], [1, 2]]


def test_a_study_of_something_else_is_passed_over(tmp_path, caplog):
    write_study(tmp_path / "a", new_study(), T1W, FLAIR)
    write_study(tmp_path / "b", new_study(), T2 | {"SeriesDescription": "t2_tse_sag_spine"})
    assert numbers(choose_visits(tmp_path)) == [[1, 2]]
    assert "1 studies with neither T1w nor FLAIR are passed over" in caplog.text


def test_two_series_that_could_be_it_are_listed(tmp_path):
    write_study(tmp_path, new_study(), T1W, FLAIR, T1W | {"SeriesDescription": "t1_again"})
    with pytest.raises(CohortError) as raised:
        choose_visits(tmp_path)
    said = str(raised.value)
    assert f"{tmp_path} holds 2 series that could be the T1w" in said
    assert "--visit T1FILE FLAIRFILE" in said
    assert said.count("\n") == 3
    assert "t1_again  (12 images, T1w)" in said


def test_parts_of_one_stack_are_listed_as_such(tmp_path):
    study = new_study()
    write_series(tmp_path, SMALL, study, T1W, 1)
    for echo, path in enumerate(write_series(tmp_path, speckle(shape=(6, 6, 24)), study, FLAIR, 2)):
        image = dcmread(path)
        image.EchoTime = (388, 90)[echo // 12]
        image.save_as(path)
    with pytest.raises(CohortError, match=r"holds 2 series that could be the FLAIR") as raised:
        choose_visits(tmp_path)
    assert str(raised.value).count("(12 images, FLAIR, a part of its stack)") == 2


def test_an_absent_contrast_is_named(tmp_path):
    write_study(tmp_path, new_study(), ENHANCED_T1W, FLAIR)
    with pytest.raises(CohortError, match="no series that is certainly the T1w"):
        choose_visits(tmp_path)


def test_a_file_stands_for_its_series(tmp_path):
    study = new_study()
    write_series(tmp_path, SMALL, study, T1W, 1)
    again = write_series(tmp_path, SMALL, study, T1W, 2)
    assert named_series(again[4], "T1w").value("SeriesNumber") == 2


def test_the_owner_may_name_what_is_never_chosen(tmp_path):
    write_study(tmp_path, new_study(), ENHANCED_T1W)
    assert named_series(tmp_path, "T1w").value("SeriesNumber") == 1


def test_exchanged_folders_are_noticed(tmp_path):
    write_study(tmp_path, new_study(), FLAIR)
    with pytest.raises(CohortError, match="given as T1w, but its tags say FLAIR"):
        named_series(tmp_path, "T1w")


@pytest.fixture
def two_flairs(tmp_path):
    """A folder with two series that a FLAIR could be; the files of the second."""
    study = new_study()
    write_series(tmp_path, SMALL, study, FLAIR, 2)
    return write_series(tmp_path, speckle(shape=(6, 6, 12), seed=1), study, FLAIR | {"SeriesDescription": "x post"}, 3)


def test_a_second_copy_stands_for_the_series_of_its_original(two_flairs):
    copy = two_flairs[0].with_name("zz_copy")
    shutil.copy(two_flairs[0], copy)
    assert named_series(copy, "FLAIR").value("SeriesNumber") == 3


def test_a_plan_stands_for_its_series(two_flairs):
    plan = dcmread(two_flairs[0])
    plan.SOPInstanceUID = generate_uid()
    plan.ImageOrientationPatient, plan.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [300, 300, 300]
    plan.save_as(two_flairs[0].with_name("plan"))
    assert named_series(two_flairs[0].with_name("plan"), "FLAIR").value("SeriesNumber") == 3


def test_a_file_of_no_mr_series_stands_for_none(two_flairs):
    """Not for another series of its folder."""
    for path in two_flairs:
        image = dcmread(path)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        image.save_as(path)
    (two_flairs[0].parent / "notes.txt").touch()
    for path in (two_flairs[0], two_flairs[0].parent / "notes.txt"):
        with pytest.raises(CohortError, match=rf"{path} is not an image of any MR series .*name a file of the series"):
            named_series(path, "FLAIR")


@pytest.mark.parametrize("which", [slice(6), slice(6, None)])
@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ContrastBolusAgent": "Gadovist"}, "contrast agent"),
        ({"ContrastBolusVolume": 8}, "contrast agent"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "P"]}, "no magnitude"),
    ],
)
def test_what_half_of_the_images_say_counts(tags, reason, which, tmp_path):
    for path in write_series(tmp_path, SMALL, new_study(), T1W)[which]:
        image = dcmread(path)
        for name, value in tags.items():
            setattr(image, name, value)
        image.save_as(path)
    (series,) = find_series(tmp_path)
    assert unsuitable(series) == reason


def test_series_of_one_image_each_are_listed_in_one_line(tmp_path):
    study = new_study()
    write_series(tmp_path, SMALL, study, T1W, 1)
    for index, path in enumerate(write_series(tmp_path, SMALL, study, FLAIR, 2)):
        image = dcmread(path)
        image.SeriesNumber, image.SeriesInstanceUID = 100 + index, generate_uid()
        image.save_as(path)
    with pytest.raises(CohortError, match=r"and 12 series of one image each .* convert it with dcm2niix") as raised:
        choose_visits(tmp_path)
    assert str(raised.value).count("\n") == 2


@pytest.mark.parametrize("identifier", ["1.2.3", ""])
def test_contrasts_that_lie_in_different_studies_are_listed_together(identifier, tmp_path):
    """One has another identifier of its study, or none."""
    study = new_study()
    write_series(tmp_path, SMALL, study, T1W, 1)
    write_series(tmp_path, SMALL, study | {"StudyInstanceUID": identifier}, FLAIR, 2)
    write_series(tmp_path, SMALL, study, T2, 3)
    with pytest.raises(CohortError, match="holds its T1w and FLAIR in different studies") as raised:
        choose_visits(tmp_path)
    listed = str(raised.value).splitlines()[1:]
    assert sorted(line.split("series ")[1][0] for line in listed) == ["1", "2", "3"]


def test_a_study_without_a_contrast_beside_a_whole_one_is_not_said_to_be_half(tmp_path):
    write_study(tmp_path / "a", new_study(), T1W, FLAIR)
    write_study(tmp_path / "b", new_study(), ENHANCED_T1W, FLAIR)
    with pytest.raises(CohortError, match="no series that is certainly the T1w") as raised:
        choose_visits(tmp_path)
    assert str(raised.value).count("\n") == 4


NO_AGENTS = [
    "NO CONTRAST", "No contrast", "NONE GIVEN", "N", "NO", "n/a", "0", "0.0 ml", "without", "ohne KM", "-", "nil",
    "no IV contrast given", "KM-frei", "not applicable",
]  # fmt: skip
WITHOUT_AGENT = [
    "T1 non-enhanced", "T1 KM-frei", "t1_mprage_noKM", "T1 TFE postproc", "T1 noncontrast", "T1 kein KM", "T1 AC-PC",
    "T1 IV ventricle", "T1 Kontrolle", "T1 sin contraste",
]  # fmt: skip
WITH_AGENT = [
    "T1 omniscan", "T1 multihance", "T1 artirem", "T1 DOTA", "t1 po kontr", "T1_MPRAGE_iv", "t1_mprage_sag_pc",
    "T1 i.v.", "T1 pre and post", "t1 AC-PC km",
]  # fmt: skip


def why(folder, **tags):
    write_series(folder, SMALL, new_study(), T1W | tags)
    return unsuitable(find_series(folder)[0])


@pytest.mark.parametrize("agent", NO_AGENTS)
def test_a_tag_that_says_that_there_is_no_agent(agent, tmp_path):
    assert why(tmp_path, ContrastBolusAgent=agent) == ""


@pytest.mark.parametrize("agent", ["Dotarem", "10 ml", "Y", "NORMAL DOSE GD", "contrast", "no contrast, then Gd"])
def test_a_tag_that_says_an_agent(agent, tmp_path):
    assert why(tmp_path, ContrastBolusAgent=agent) == "contrast agent"


@pytest.mark.parametrize("name", WITHOUT_AGENT)
def test_a_name_that_says_that_there_is_no_agent(name, tmp_path):
    assert why(tmp_path, SeriesDescription=name) == ""


@pytest.mark.parametrize("name", WITH_AGENT)
def test_a_name_that_says_an_agent(name, tmp_path):
    assert why(tmp_path, SeriesDescription=name) == "contrast agent"
