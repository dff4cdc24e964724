"""Damaged and hostile files are read or refused in one sentence: no traceback, no hang, no unlimited memory.

Images that are bombs are in `tests/test_images.py`.
"""

import hashlib
import json
import logging
import os
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
from benchmarks.hostile_input import Limits, measure
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from lesiondelta.errors import CohortError, GeometryError, ImageError, ModelError, short
from lesiondelta.files import LARGEST_TEXT, sha256, small_content
from lesiondelta.images import read_image
from lesiondelta.inference.archive import unpack
from lesiondelta.inference.model import load_model, read_description
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.inputs.bids_names import read_filters
from lesiondelta.inputs.bids_tables import dates_of, read_table
from lesiondelta.inputs.dicom import find_series, read_series
from lesiondelta.inputs.dicom_files import pixels_of, transfer_syntax
from lesiondelta.inputs.sidecars import sidecars_in
from tests.dicoms import T1W, new_study, speckle, write_series
from tests.hostile import KINDS, judge, written
from tests.models import export_tiny_model
from tests.tiny import image_path, write_patient

SHARE = {"nifti": 150, "dicom": 40, "json": 60, "tsv": 60, "model": 30}
DEEP = "[" * 100_000


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_share_of_damaged_files_is_read_or_refused_in_a_sentence(kind, tmp_path):
    verdicts = {n: judge(kind, written(kind, tmp_path, 1, n)) for n in range(SHARE[kind])}
    assert {number: one.said for number, one in verdicts.items() if one.result == "fault"} == {}
    assert {"read"} <= {one.result for one in verdicts.values()}  # not all are refused for one reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_ten_thousand_damaged_files_are_read_or_refused_within_limits(kind, tmp_path):
    tally = measure(kind, 0, range(10_000), Limits(memory_gb=4, seconds=20), tmp_path / "faults")
    assert tally.results["fault"] == 0


def test_text_from_a_file_is_cut_and_on_one_line():
    assert short("a\nb\x1d c") == "a b c"
    assert short("x" * 300) == "x" * 200 + "..."


def large(path: Path) -> Path:
    """A file of 100 MB, all zeros, without blocks on the disk."""
    with path.open("wb") as file:
        file.truncate(10**8)
    return path


def test_a_small_file_is_read_only_up_to_its_limit(tmp_path):
    with pytest.raises(ValueError, match="it is larger than 17 MB"):
        small_content(large(tmp_path / "a.json"))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="it is a folder, a pipe or a device"):
            small_content(path)
    (tmp_path / "b").write_bytes(bytes(LARGEST_TEXT))
    assert len(small_content(tmp_path / "b")) == LARGEST_TEXT


@pytest.mark.parametrize("how", ["large", "deep", "pipe"])
def test_a_hostile_sidecar_is_logged_and_left_out(how, tmp_path, caplog):
    path = tmp_path / "sub-1_FLAIR.json"
    {"large": large, "deep": lambda path: path.write_text(DEEP), "pipe": os.mkfifo}[how](path)
    with caplog.at_level(logging.WARNING, "lesiondelta"):
        (found,) = sidecars_in(tmp_path)
    said = {"large": "it is larger than 17 MB", "deep": "it is nested too deeply", "pipe": "it is a folder, a pipe"}[
        how
    ]
    assert found.fields == {}
    assert f"{path} is not read ({said}" in caplog.text


@pytest.mark.parametrize("how", ["large", "deep"])
def test_hostile_filters_and_descriptions_are_refused(how, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(DEEP) if how == "deep" else large(path)
    said = "nested too deeply" if how == "deep" else "larger than 17 MB"
    with pytest.raises(CohortError, match=rf"model\.json cannot be read as JSON .it is {said}"):
        read_filters(path)
    with pytest.raises(ModelError, match=f"is not the description of a lesiondelta model .it is {said}"):
        read_description(tmp_path)


def test_a_table_of_a_million_columns_is_one_sentence(tmp_path):
    (tmp_path / "sub-1").mkdir()
    table = tmp_path / "sub-1/sub-1_sessions.tsv"
    table.write_text("\t".join(f"date{n}" if n else "date" for n in range(1_000_000)) + "\n" + "\t" * 999_999)
    (doubt,) = dates_of(tmp_path / "sub-1", {"1": []})[0].doubts
    assert f"{table} is not used: it needs one column session_id" in doubt
    assert len(doubt) < 500


def test_a_table_that_is_too_large_or_a_pipe_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"large\.tsv cannot be read .it is larger than 67 MB"):
        read_table(large(tmp_path / "large.tsv"))
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(CohortError, match=r"pipe\.tsv cannot be read .it is a folder, a pipe or a device"):
        read_table(tmp_path / "pipe.tsv")


def test_a_link_out_of_the_dataset_is_an_image_like_others(tmp_path):
    """DataLad and many labs keep images elsewhere and link to them; what is no file is refused and not waited for."""
    write_patient(tmp_path / "bids", "1")
    path = image_path(tmp_path / "bids", "1", "1", "FLAIR")
    path.rename(tmp_path / "elsewhere.nii.gz")
    path.symlink_to("../../../../elsewhere.nii.gz")
    (patient,) = read_cohort(tmp_path / "bids").patients
    assert read_image(patient.visits[0].images["FLAIR"]).data.any()
    for target, said in (("/dev/zero", "is a pipe or a device"), ("/nowhere", "is a link to"), ("/etc", "is a folder")):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(ImageError, match=said):
            read_image(path)


# DICOM


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path):
    paths = write_series(tmp_path / "t1", speckle("axial", (8, 10, 3)), new_study(), T1W)
    for path in paths:
        image = dcmread(path)
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        image.save_as(path, enforce_file_format=True)
    assert read_series(find_series(tmp_path / "t1")[0]).data.shape == (8, 10, 3)
    content = paths[0].read_bytes()
    start = 144 + dcmread(paths[0]).file_meta.FileMetaInformationGroupLength
    plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(2**26)
    bomb = packer.compress(plain) + b"".join(packer.compress(zeros) for _ in range(17)) + packer.flush()
    paths[0].write_bytes(content[:start] + bomb)
    with pytest.raises(ImageError, match=f"{paths[0].name} unpacks to more than 1 GB: export it again, not deflated"):
        find_series(tmp_path / "t1")


def test_compressed_pixels_that_would_be_larger_than_any_image_are_refused(tmp_path):
    paths = write_series(tmp_path / "t1", speckle("axial", (8, 10, 3)), new_study(), T1W)
    for path in paths:
        image = dcmread(path)
        image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        image.Rows = image.Columns = 65535
        image.save_as(path, enforce_file_format=True)
    (series,) = find_series(tmp_path / "t1")
    with pytest.raises(ImageError, match="says that it has 3 images of 65535 x 65535 pixels"):
        read_series(series)


def test_a_file_that_is_damaged_after_its_header_is_named(tmp_path):
    path, *_ = write_series(tmp_path / "t1", speckle("axial", (8, 10, 3)), new_study(), T1W)
    (series,) = find_series(tmp_path / "t1")
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=rf"{path.name} cannot be read .*: export it again"):
        read_series(series)
    assert pixels_of(path) == hashlib.sha256(b"").digest()
    path.unlink()
    assert transfer_syntax(path) == ""


@pytest.mark.parametrize("value", [b"\xff\xfe", b"nan"])
def test_a_time_that_is_no_number_is_no_traceback(value, tmp_path):
    path, *_ = write_series(tmp_path / "t1", speckle("axial", (8, 10, 3)), new_study(), T1W)
    image = dcmread(path)
    image["InversionTime"]._value, image["InversionTime"].VR = value, "LO"
    image.save_as(path, enforce_file_format=False)
    for series in find_series(tmp_path / "t1"):
        with pytest.raises(GeometryError):
            read_series(series)


# Models


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_that_are_a_pickle_are_never_opened(tmp_path):
    model = export_tiny_model(tmp_path / "model")
    weights = model / "weights.safetensors"
    weights.write_bytes(pickle.dumps(Evil(tmp_path / "ran")) + bytes(weights.stat().st_size))
    description = json.loads((model / "model.json").read_text()) | {"weights_sha256": sha256(weights)}
    (model / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match="is not a safetensors file"):
        load_model(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"features_per_stage": [4096] * 3},
            r"a network of [\d,]{13,} numbers, more than its weights.safetensors holds",
        ),
        ({"features_per_stage": [100_000] * 3}, "numbers above 4096"),
        ({"n_conv_per_stage": [4000, 1, 1]}, "over 500 layers"),
        ({"nonlin_kwargs": {"inplace": [True] * 65}}, "lists of over 64"),
    ],
)
def test_a_network_larger_than_its_weights_is_not_built(changed, said, tmp_path):
    model = export_tiny_model(tmp_path / "model")
    description = json.loads((model / "model.json").read_text())
    description["network"]["kwargs"] |= changed
    (model / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=said):
        load_model(model)


def packed(model: Path, archive: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for path in model.iterdir():
            written.write(path, path.name)
        for name, content in more.items():
            written.writestr(name.replace("UP", "../").replace("DOT", "."), content)
    return archive


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("UPevilDOTpy", b"", "holds '../evil.py', which is not part of a model"),
        ("modelDOTjson", b"{}", "holds a file twice"),
        ("MODEL_CARDDOTmd", bytes(2**24 + 1), "holds a MODEL_CARD.md of 17 MB, larger than any model's"),
        ("x" * 5000, b"", r"holds 'x{199}\.\.\., which is not part"),
    ],
)
def test_an_archive_with_anything_but_a_model_leaves_nothing(name, content, said, tmp_path):
    archive = packed(export_tiny_model(tmp_path / "model"), tmp_path / "a.zip", **{name: content})
    with pytest.raises(ModelError, match=said):
        unpack(archive, tmp_path / "there" / "m")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a.zip", "model", "model.json", "there", "weights.safetensors"
    ]  # fmt: skip


def test_what_is_wrong_in_an_archive_is_said_of_the_archive(tmp_path):
    model = export_tiny_model(tmp_path / "model")
    (model / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"a\.zip/model\.json is not the description"):
        unpack(packed(model, tmp_path / "a.zip"), tmp_path / "there")
