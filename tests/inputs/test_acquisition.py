"""Times of real protocols say nothing of the right name, and what they are where the name is wrong."""

import pytest

from lesiondelta.inputs.acquisition import contradiction, of_sidecar
from lesiondelta.inputs.dicom import find_series
from lesiondelta.inputs.studies import acquisition_of
from tests.dicoms import FLAIR, T1W, T2, new_study, speckle, write_enhanced, write_series

SMALL = speckle(shape=(6, 6, 12))
PROTOCOLS = {
    # Most as sidecars of public datasets have them: OpenNeuro's ds001907, ds003592, ds003653, ds004199, ds004884,
    # ds004889, ds004910, ds005270, and bids-examples. Of their 5581, 7 are flagged: 4 T1w called FLAIR, 3 of T2w
    "Siemens MPRAGE": ("T1w", {"EchoTime": 0.00298, "RepetitionTime": 2.3, "InversionTime": 0.9,
                               "ScanningSequence": "GR_IR", "SeriesDescription": "t1_mprage_sag_p2_iso"}),
    "MPRAGE of several echoes": ("T1w", {"EchoTime": [0.00164, 0.0035, 0.00536, 0.00722], "RepetitionTime": 2.53}),
    "MP2RAGE": ("T1w", {"EchoTime": 0.0029, "RepetitionTime": 5, "InversionTime": [0.7, 2.5],
                        "ScanningSequence": ["GR", "IR"]}),
    "Philips TFE": ("T1w", {"EchoTime": 0.0035, "RepetitionTime": 0.0076, "ScanningSequence": "GR"}),
    "GE BRAVO": ("T1w", {"EchoTime": 0.0032, "RepetitionTime": 0.0082, "InversionTime": 0.45}),
    "spin echo": ("T1w", {"EchoTime": 0.015, "RepetitionTime": 0.65, "ScanningSequence": "SE"}),
    "spin echo in 3D": ("T1w", {"EchoTime": 0.029, "RepetitionTime": 0.6, "ScanningSequence": "SE"}),
    "T1w that nulls fluid": ("T1w", {"EchoTime": 0.0085, "RepetitionTime": 4.1, "InversionTime": 1.6,
                                     "ScanningSequence": "SE_IR", "SeriesDescription": "t1_tirm_tra_dark-fluid_p2"}),
    "GE T1 FLAIR PROPELLER": ("T1w", {"EchoTime": 0.051296, "RepetitionTime": 2.42737, "InversionTime": 0.985049}),
    "T1w of bone": ("T1w", {"EchoTime": 0.00007, "RepetitionTime": 0.0036}),
    "synthetic T1w": ("T1w", {"EchoTime": 0.01, "RepetitionTime": 0.5}),
    "Siemens SPACE FLAIR": ("FLAIR", {"EchoTime": 0.388, "RepetitionTime": 5, "InversionTime": 1.8,
                                      "ScanningSequence": "SE\\IR", "ProtocolName": "t2_spc_da-fl_sag_p2_iso"}),
    "Siemens 2D": ("FLAIR", {"EchoTime": 0.09, "RepetitionTime": 9, "InversionTime": 2.5}),
    "Philips Brain VIEW": ("FLAIR", {"EchoTime": 0.274691, "RepetitionTime": 4.8, "InversionTime": 1.65}),
    "Philips of old, without inversion time": ("FLAIR", {"EchoTime": 0.14, "RepetitionTime": 11}),
    "GE CUBE": ("FLAIR", {"EchoTime": 0.115, "RepetitionTime": 6.5, "InversionTime": 1.75}),
    "GE PROPELLER, inversion not told": ("FLAIR", {"EchoTime": 0.12, "RepetitionTime": 9, "ScanningSequence": "SE"}),
    "SPACE with a preparation, at 7 T": ("FLAIR", {"EchoTime": 0.475, "RepetitionTime": 8, "InversionTime": 2.85}),
    "0.064 T": ("FLAIR", {"EchoTime": 0.172, "RepetitionTime": 4, "InversionTime": 1.4}),
}  # fmt: skip


def said(contrast, fields):
    return list(contradiction(contrast, "a.nii.gz", "sidecar", of_sidecar(fields)))


def sentence(contrast, what):
    return [f"a.nii.gz was given as {contrast}, but its sidecar {what}: see whether it is the {contrast}."]


@pytest.mark.parametrize("in_ms", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_right_protocol_says_nothing(name, in_ms):
    contrast, fields = PROTOCOLS[name]

    def scaled(value):
        return [scaled(one) for one in value] if isinstance(value, list) else value * 1000

    assert said(contrast, fields) == []
    if in_ms and name != "T1w of bone":  # 0.07 ms are read as 70: nobody writes that
        assert said(contrast, {key: scaled(v) if "Time" in key else v for key, v in fields.items()}) == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (PROTOCOLS["Siemens MPRAGE"][1], "has an echo time of 2.98 ms, as a T1w has"),
        ({"EchoTime": 0.003}, "has an echo time of 3 ms, as a T1w has"),
        ({"EchoTime": 3}, "has an echo time of 3 ms, as a T1w has"),
        ({"EchoTime": " 0.0031 "}, "has an echo time of 3.1 ms, as a T1w has"),
        ({"EchoTime": [0.002, 0.004]}, "has an echo time of 4 ms, as a T1w has"),
        ({"EchoTime": [None, "n/a", {}, True, 0, 0.012]}, "has an echo time of 12 ms, as a T1w has"),
        (
            PROTOCOLS["GE T1 FLAIR PROPELLER"][1],
            "has an inversion time of 985 ms and an echo time of 51.3 ms, as a T1w has",
        ),
        ({"EchoTime": 0.045, "RepetitionTime": 0.6}, "has a repetition time of 600 ms, too short for a FLAIR"),
        ({"EchoTime": 0, "RepetitionTime": 0.0082}, "has a repetition time of 8.2 ms, too short for a FLAIR"),
        ({"SeriesDescription": "t1_mprage_sag"}, "calls it a T1w"),
        ({"SeriesDescription": "", "ProtocolName": "Sag T1 SE"}, "calls it a T1w"),
    ],
)
def test_no_flair(fields, what):
    assert said("FLAIR", fields) == sentence("FLAIR", what)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"EchoTime": 0.388, "InversionTime": 1.8}, "has an echo time of 388 ms, as a FLAIR has"),
        ({"EchoTime": 90, "InversionTime": "2500"}, "has an echo time of 90 ms, as a FLAIR has"),
        ({"EchoTime": 0.1, "RepetitionTime": 4.5}, "has an echo time of 100 ms, as a T2w or a FLAIR has"),
        ({"EchoTime": "96"}, "has an echo time of 96 ms, as a T2w or a FLAIR has"),
        (
            {"EchoTime": 0.02, "ScanningSequence": "GR", "RepetitionTime": 0.62},
            "has an echo time of 20 ms, as a T2*-weighted gradient echo has",
        ),
        ({"SeriesDescription": "t2_tirm_dark-fluid"}, "calls it a FLAIR"),
    ],
)
def test_no_t1w(fields, what):
    assert said("T1w", fields) == sentence("T1w", what)


ODD = [None, True, False, 0, 0.0, -0.003, float("nan"), float("inf"), 1e308, 10**400, "", "n/a", "3 ms", "nan", {}, [],
       [[0.003]], {"value": 0.003}, [None, float("nan")], 1e-9, 90_000]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:12])
@pytest.mark.parametrize("contrast", ["T1w", "FLAIR"])
def test_what_cannot_be_a_time_says_nothing(contrast, odd):
    keys = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "ScanningSequence", "SeriesDescription")
    assert said(contrast, dict.fromkeys(keys, odd)) == []
    right = {"EchoTime": 0.003} if contrast == "T1w" else {"EchoTime": 0.12}
    for key in keys[1:]:
        assert said(contrast, right | {key: odd}) == []


@pytest.mark.parametrize(
    ("contrast", "fields"),
    [
        ("T1w", {"EchoTime": 0.0494, "RepetitionTime": 0.011}),  # as in a public dataset, of 4.94 ms
        ("T1w", {"EchoTime": 0.494, "RepetitionTime": 0.011}),
        ("FLAIR", {"EchoTime": 0.00012, "RepetitionTime": 0.009}),  # seconds taken for milliseconds
        ("FLAIR", {"EchoTime": [0.02, 0.1]}),
        ("T1w", {"EchoTime": 0.055}),
        ("FLAIR", {"EchoTime": 0.041}),
        ("FLAIR", {"InversionTime": 0.1}),
    ],
)
def test_times_that_do_not_fit_one_another_or_are_not_certain_say_nothing(contrast, fields):
    assert said(contrast, fields) == []


@pytest.mark.parametrize(
    ("contrast", "name"),
    [
        ("FLAIR", "Sag T1 FLAIR"), ("T1w", "Sag T1 FLAIR"), ("T1w", "3DT1FLAIR"), ("FLAIR", "t2_spc_da-fl_sag"),
        ("FLAIR", "t2_flash"), ("T1w", "T1_MPRAGE"), ("FLAIR", "T2 FLAIR"), ("T1w", "anat"), ("T1w", 7),
        ("FLAIR", ["t1"]),
    ],
)  # fmt: skip
def test_names_of_both_contrasts_or_none_say_nothing(contrast, name):
    assert said(contrast, {"SeriesDescription": name}) == []


def test_times_count_more_than_names():
    assert said("FLAIR", {"SeriesDescription": "t1_mprage", "EchoTime": 0.12}) == []
    assert said("T1w", {"SeriesDescription": "FLAIR", "EchoTime": 0.003}) == []


@pytest.mark.parametrize(
    ("tags", "contrast", "what"),
    [
        (T1W, "T1w", None),
        (FLAIR, "FLAIR", None),
        (T1W, "FLAIR", "has an echo time of 2.98 ms, as a T1w has"),
        (FLAIR, "T1w", "has an echo time of 388 ms, as a FLAIR has"),
        (T2, "T1w", "has an echo time of 96 ms, as a T2w or a FLAIR has"),
        (T2 | {"EchoTime": 20, "ScanningSequence": "GR"}, "T1w", "has an echo time of 20 ms, as a T2*-weighted"),
        (T1W | {"EchoTime": None}, "FLAIR", "calls it a T1w"),
        (T1W | {"EchoTime": 0, "RepetitionTime": 0, "SeriesDescription": "a"}, "FLAIR", None),
        (FLAIR | {"EchoTime": 0.388, "RepetitionTime": 5}, "FLAIR", None),  # seconds
    ],
)
def test_headers_say_milliseconds(tmp_path, tags, contrast, what):
    write_series(tmp_path, SMALL, new_study(), tags)
    found = list(contradiction(contrast, "it", "header", acquisition_of(find_series(tmp_path)[0])))
    assert [one.startswith(f"it was given as {contrast}, but its header {what}") for one in found] == [True] * bool(
        what
    )


def test_multi_frame_files_say_them_elsewhere(tmp_path):
    write_enhanced(tmp_path / "a", SMALL, new_study(), FLAIR)
    acquisition = acquisition_of(find_series(tmp_path)[0])
    assert acquisition.echoes_ms == (388,)
    assert list(contradiction("FLAIR", "it", "header", acquisition)) == []
