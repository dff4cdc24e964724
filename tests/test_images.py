"""Space: oblique, flipped, anisotropic, sheared and differently gridded images."""

import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from lesiondelta.errors import GeometryError, ImageError
from lesiondelta.images import (
    RAS_TO_LPS,
    Grid,
    Volume,
    corners_mm,
    isotropic_grid,
    read_image,
    read_itk_transform,
    read_labels,
    read_mask,
    require_same_grid,
    resample,
    to_sitk,
    write_displacement,
    write_itk_transform,
    write_volume,
)


def from_sitk(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, RAS_TO_LPS @ affine)


def affine(angles=(0.0, 0.0, 0.0), spacing=(1.0, 1.0, 1.0), flip=(1, 1, 1), origin=(0.0, 0.0, 0.0)):
    cx, cy, cz = np.cos(angles)
    sx, sy, sz = np.sin(angles)
    rotation = (
        np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(spacing) * np.array(flip)
    matrix[:3, 3] = origin
    return matrix


OBLIQUE = affine((0.2, -0.3, 0.4), (0.5, 0.5, 3), (-1, 1, 1), (10, 20, 30))


def blob(matrix, shape, centre_mm=(5.0, -3.0, 8.0), sigma_mm=6.0):
    """A Gaussian at a place in the world, sampled on any grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = index @ matrix[:3, :3].T + matrix[:3, 3]
    return Volume(np.exp(-(((world - centre_mm) / sigma_mm) ** 2).sum(-1) / 2).astype(np.float32), matrix)


GRIDS = {
    "LPS": (affine(flip=(-1, -1, 1), origin=(40, 40, -30)), (80, 80, 80)),
    "LAS": (affine(flip=(-1, 1, 1), origin=(40, -40, -30)), (80, 80, 80)),
    "oblique": (affine((0.2, -0.3, 0.4), origin=(-40, -45, -25)), (80, 90, 80)),
    "thick": (affine((0.1, 0.0, 0.0), (0.8, 0.8, 3.0), origin=(-40, -40, -30)), (110, 110, 28)),
    "sheared": (affine((0.0, 0.1, 0.0), origin=(-45, -40, -30)) @ (np.eye(4) + 0.1 * np.eye(4, k=1)), (90, 80, 80)),
}
TARGET = Grid((60, 60, 60), affine(origin=(-25, -33, -22)))


@pytest.mark.parametrize("name", GRIDS)
def test_resampling_keeps_things_where_they_are(name):
    moved = resample(blob(*GRIDS[name]), TARGET)
    expected = blob(TARGET.affine, TARGET.shape).data
    covered = resample(Volume(np.ones(GRIDS[name][1], np.float32), GRIDS[name][0]), TARGET, order="nearest").data > 0
    assert covered.mean() > 0.4
    assert np.abs(moved.data - expected)[covered].max() < 0.03


@pytest.mark.parametrize("name", ["LPS", "oblique", "thick"])
def test_resampling_through_a_transform_equals_simpleitk(name, tmp_path):
    source = blob(*GRIDS[name])
    transform = affine((0.1, 0.2, -0.1), (1.02, 0.98, 1.0), origin=(3, -2, 5))
    write_itk_transform(tmp_path / "xfm.txt", transform)
    reference = to_sitk(Volume(np.zeros(TARGET.shape, np.float32), TARGET.affine))
    theirs = sitk.Resample(
        to_sitk(source), reference, sitk.ReadTransform(str(tmp_path / "xfm.txt")), sitk.sitkLinear, 0.0
    )
    ours = resample(source, TARGET, transform, order="linear").data
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(ours[inner], from_sitk(theirs).data[inner], atol=2e-3)
    np.testing.assert_allclose(read_itk_transform(tmp_path / "xfm.txt"), transform, atol=1e-12)


@pytest.mark.parametrize("name", ["LPS", "LAS", "oblique", "thick"])
def test_a_displacement_in_voxels_is_one_in_mm_for_simpleitk(name, tmp_path):
    """It pulls the image from where adding the voxels to the index does."""
    source = blob(*GRIDS[name])
    index = np.indices(source.data.shape).astype(np.float64)
    voxels = np.array([3, -2, 1])[:, None, None, None] * np.cos(index / 20)
    write_displacement(tmp_path / "field.nii.gz", voxels, source.grid)
    assert nib.load(tmp_path / "field.nii.gz").header.get_intent()[0] == "vector"
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64))
    theirs = from_sitk(sitk.Resample(to_sitk(source), to_sitk(source), transform, sitk.sitkLinear, 0.0)).data
    ours = map_coordinates(source.data, index + voxels, order=1)
    inner = (slice(4, -4),) * 3
    assert ours[inner].max() > 0.5
    np.testing.assert_allclose(theirs[inner], ours[inner], atol=2e-3)


def test_itk_transforms_with_a_centre_are_read(tmp_path):
    transform = sitk.AffineTransform(3)
    transform.Rotate(0, 1, 0.3)
    transform.SetCenter((10, 20, 30))
    transform.SetTranslation((1, 2, 3))
    sitk.WriteTransform(transform, str(tmp_path / "t.txt"))
    matrix = read_itk_transform(tmp_path / "t.txt")
    ras = np.array([5.0, -6.0, 7.0])
    expected = np.array(transform.TransformPoint((ras * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    np.testing.assert_allclose((matrix @ [*ras, 1])[:3], expected, atol=1e-9)


def test_a_spline_stays_in_the_range_of_its_input():
    data = np.zeros((12, 12, 12), np.float32)
    data[6:] = 100
    result = resample(Volume(data, np.eye(4)), Grid((40, 12, 12), affine(spacing=(0.3, 1, 1))))
    assert result.data.min() == 0
    assert result.data.max() == 100


def test_masks_stay_masks_and_soft_masks_are_fractions():
    mask = Volume(np.zeros((6, 6, 6), bool), np.eye(4))
    mask.data[2:4] = True
    grid = Grid((12, 6, 6), affine(spacing=(0.5, 1, 1)))
    assert resample(mask, grid, order="nearest").data.dtype == np.bool_
    soft = resample(mask, grid, order="linear").data
    assert set(np.unique(soft)) == {0.0, 0.5, 1.0}


@settings(max_examples=30, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    flip=st.tuples(*[st.sampled_from((-1, 1))] * 3),
)
def test_simpleitk_round_trip(angles, spacing, flip):
    volume = Volume(np.arange(24, dtype=np.float32).reshape(2, 3, 4), affine(angles, spacing, flip, (1, 2, 3)))
    back = from_sitk(to_sitk(volume))
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


def test_isotropic_grid_covers_its_points():
    points = np.array([[-3.2, 0.0, 5.1], [4.4, 2.0, 9.9]])
    grid = isotropic_grid(points, 1.0, margin_mm=2.0)
    corners = corners_mm(grid)
    assert (corners.min(axis=0) <= points.min(axis=0) - 2).all()
    assert (corners.max(axis=0) >= points.max(axis=0) + 2).all()
    np.testing.assert_allclose(grid.spacing, 1)


def test_sheared_axes_have_no_itk_image():
    with pytest.raises(GeometryError, match="sheared"):
        to_sitk(blob(*GRIDS["sheared"]))


def test_grids_must_agree():
    a = Volume(np.zeros((4, 4, 4)), np.eye(4), "a.nii.gz")
    with pytest.raises(GeometryError, match=r"a.nii.gz and b.nii.gz lie 0.50 mm apart"):
        require_same_grid(a, Volume(np.zeros((4, 4, 4)), affine(origin=(0.5, 0, 0)), "b.nii.gz"))
    with pytest.raises(GeometryError, match="shape"):
        require_same_grid(a, Volume(np.zeros((4, 4, 5)), np.eye(4)))


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for year, shape in (("2019", (4, 4, 4)), ("2021", (4, 4, 5))):
        write_volume(tmp_path / year / "FLAIR.nii.gz", Volume(np.ones(shape), np.eye(4)))
    paths = [tmp_path / year / "FLAIR.nii.gz" for year in ("2019", "2021")]
    with pytest.raises(GeometryError) as error:
        require_same_grid(*map(read_image, paths))
    assert all(str(path) in str(error.value) for path in paths)


def test_a_written_volume_reads_back(tmp_path):
    volume = blob(*GRIDS["thick"])
    write_volume(tmp_path / "deep" / "a.nii.gz", volume)
    back = read_image(tmp_path / "deep" / "a.nii.gz")
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    np.testing.assert_array_equal(back.data, volume.data)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.nii.gz"]


def save(path, data, matrix=None, codes=(1, 1)):
    image = nib.Nifti1Image(data, np.eye(4) if matrix is None else matrix)
    image.header["sform_code"], image.header["qform_code"] = codes
    nib.save(image, path)
    return path


def with_voxel(value):
    data = np.ones((4, 4, 4), np.float32)
    data[1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_voxel(np.nan), "1 NaN or infinite"),
        (with_voxel(np.inf), "1 NaN or infinite"),
        (np.zeros((4, 4, 4), np.float32), "zero everywhere"),
        (np.ones((4, 4, 4, 2), np.float32), "4 dimensions"),
        (np.ones((4, 4), np.float32), "2 dimensions"),
    ],
)
def test_unusable_images_are_named(tmp_path, data, message):
    path = save(tmp_path / "sub-1_FLAIR.nii.gz", data)
    with pytest.raises(ImageError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_a_trailing_axis_of_one_is_no_4d_image(tmp_path):
    assert read_image(save(tmp_path / "a.nii", np.ones((4, 5, 6, 1), np.float32))).data.shape == (4, 5, 6)


def test_truncated_and_foreign_files_are_named(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"no image"))
    for bad in (path, tmp_path / "b.nii.gz"):
        with pytest.raises(ImageError, match="cannot be read") as error:
            read_image(bad)
        assert str(bad) in str(error.value)
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "c.nii.gz")


@pytest.mark.parametrize(
    "name", ["packed.nii", "plain.nii.gz", "a.Nii.gz", "a.NII", "a.NII.GZ", "plain.mgz", "mgh.nii.gz", "nii.mgz"]
)
def test_an_image_is_read_by_its_content_whatever_its_name(tmp_path, name):
    data = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    kind = nib.MGHImage if name in ("plain.mgz", "mgh.nii.gz") else nib.Nifti1Image
    content = kind(data, OBLIQUE).to_bytes()
    packed = name.startswith("packed") or (name.lower().endswith("gz") and "plain" not in name)
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(read_image(tmp_path / name).data, data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\n<html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "fetch it with `git lfs pull`"),
        (b"/annex/objects/MD5E-s1--abc.nii.gz\n", "fetch it with `datalad get`"),
        (gzip.compress(gzip.compress(b"image", mtime=0), mtime=0), "is packed twice"),
        (bytes(128) + b"DICM", "is a DICOM file: unpack it"),
        (b"", "is empty"),
    ],
    ids=["page", "page after a line", "git-lfs", "git-annex", "packed twice", "DICOM", "empty"],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz"])
def test_what_lies_in_an_images_place_is_named(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name} .*{said}"):
        read_image(tmp_path / name)


def test_links_that_lead_nowhere_say_where(tmp_path):
    (tmp_path / "dead.nii.gz").symlink_to("gone.nii.gz")
    (tmp_path / "annex.nii.gz").symlink_to("../.git/annex/objects/x/a.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    for name, said in (("dead", "is a link to gone.nii.gz"), ("annex", "`datalad get`"), ("loop", "to loop.nii.gz")):
        with pytest.raises(ImageError, match=f"{name}.nii.gz .*{said}"):
            read_image(tmp_path / f"{name}.nii.gz")


@pytest.mark.parametrize(("kind", "offset"), [(nib.Nifti1Image, 0), (nib.Nifti1Image, 348), (nib.Nifti2Image, 352)])
def test_headers_are_not_read_as_voxels(tmp_path, kind, offset):
    content = bytearray(kind(np.full((5, 6, 7), 3, np.int16), OBLIQUE).to_bytes())
    field = kind.header_class.template_dtype.fields["vox_offset"]
    content[field[1] : field[1] + field[0].itemsize] = np.array(offset, field[0]).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ImageError, match=r"a.nii says that its voxels begin at byte|vox offset"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_freesurfer_images_without_geometry_are_refused(tmp_path, name):
    content = bytearray(nib.MGHImage(np.ones((4, 4, 4), np.float32), OBLIQUE).to_bytes())
    content[28:30] = bytes(2)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("z") else content)
    with pytest.raises(GeometryError, match="says nothing of its orientation"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz", "a.img.gz"])
def test_a_flipped_bit_in_the_voxels_is_found_by_the_checksum(tmp_path, name):
    """Without one the voxels would be read, with another value among them."""
    data = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.float32)
    kinds = {"a.nii.gz": nib.Nifti1Image, "a.mgz": nib.MGHImage, "a.img.gz": nib.Nifti1Pair}
    nib.save(kinds[name](data, affine(spacing=(1, 1, 3))), tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).data, data)
    content = bytearray(gzip.decompress((tmp_path / name).read_bytes()))
    checksum = gzip.compress(bytes(content))[-8:]
    content[-2000] ^= 1
    (tmp_path / name).write_bytes(gzip.compress(bytes(content))[:-8] + checksum)
    with pytest.raises(ImageError, match=f"{name} cannot be .*CRC check failed"):
        read_image(tmp_path / name)


def test_a_file_without_permission_is_not_called_damaged():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = save(Path(name) / "a.nii.gz", np.ones((4, 4, 4), np.float32))
        path.chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(ImageError, match=r"a.nii.gz cannot be opened \(Permission denied\)"):
                read_image(path)
        finally:
            os.seteuid(user)


def test_an_image_that_asks_for_more_than_its_file_can_hold_is_refused_before_it_is_read(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((32767, 32767, 32767))
    header.set_data_dtype(np.float64)
    header["vox_offset"] = 352
    plain = header.binaryblock + bytes(4)
    for name, content in (("a.nii.gz", gzip.compress(plain)), ("b.nii", plain)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=r"32767 x 32767 x 32767 voxels, 281,449.2 GB, and it cannot hold as many"):
            read_image(tmp_path / name)


def test_an_image_larger_than_any_is_refused_though_its_file_holds_it(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2048, 2048, 1025))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    with (tmp_path / "a.nii").open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 2048 * 2048 * 1025)  # without blocks on the disk
    with pytest.raises(ImageError, match=r"2048 x 2048 x 1025 voxels, 4.3 GB: give an image of 4.3 GB or less"):
        read_image(tmp_path / "a.nii")


def test_a_header_without_voxels_or_with_voxels_far_away_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((4, 5, 6), np.float32))
    content = bytearray(path.read_bytes())
    content[42:44] = (-4).to_bytes(2, "little", signed=True)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="its header says that it has -4 x 5 x 6 voxels"):
        read_image(path)
    content[42:44], content[108:112] = (4).to_bytes(2, "little"), np.float32(2**30).tobytes()
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"voxels begin at byte 1073741824 \(vox_offset\), far after its header"):
        read_image(path)


def test_what_goes_on_after_its_voxels_is_not_unpacked_to_its_end(tmp_path):
    """Padding is fine; hundreds of megabytes are not, packed or not."""
    content = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), OBLIQUE).to_bytes()
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(content + bytes(2**20)))
    assert read_image(tmp_path / "padded.nii.gz").data.shape == (4, 5, 6)
    member = gzip.compress(bytes(2**26), 1)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content) + member * 40)
    with (tmp_path / "long.nii").open("wb") as file:
        file.write(content)
        file.truncate(2**30)
    for name in ("bomb.nii.gz", "long.nii"):
        with pytest.raises(ImageError, match="where its image ends by its header"):
            read_image(tmp_path / name)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to("/dev/zero")
    for name in ("a.nii.gz", "b.nii.gz"):
        with pytest.raises(ImageError, match="is a pipe or a device, not a file"):
            read_image(tmp_path / name)


def test_affines_must_be_there_and_regular(tmp_path):
    ones = np.ones((4, 4, 4), np.float32)
    nib.save(nib.Nifti1Image(ones, None), tmp_path / "none.nii")
    with pytest.raises(GeometryError, match="orientation"):
        read_image(tmp_path / "none.nii")
    singular = np.eye(4)
    singular[:3, 2] = singular[:3, 1]
    with pytest.raises(GeometryError, match="singular"):
        read_image(save(tmp_path / "flat.nii", ones, singular, codes=(1, 0)))


def with_forms(path, sform, qform, data=None):
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32) if data is None else data, None)
    for form, put in ((sform, image.set_sform), (qform, image.set_qform)):
        if form is not None:
            put(form, "scanner")
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("sform", "qform"),
    [
        (OBLIQUE, None),
        (None, OBLIQUE),
        (OBLIQUE, OBLIQUE),
        (affine((1, 0, 3), origin=(-90, -126, -72)) @ OBLIQUE, OBLIQUE),  # moved into a standard space, rigidly
        (OBLIQUE @ np.diag([1.005, 1, 1, 1]), OBLIQUE),
    ],
)
def test_headers_as_scanners_and_programs_write_them_pass(tmp_path, sform, qform):
    read = read_image(with_forms(tmp_path / "a.nii.gz", sform, qform)).affine
    np.testing.assert_allclose(read, OBLIQUE if sform is None else sform, atol=1e-5)


def test_images_of_other_programs_pass(tmp_path):
    data = np.random.default_rng(0).normal(100, 10, (4, 5, 6)).astype(np.float32)
    sitk.WriteImage(to_sitk(Volume(data, OBLIQUE)), str(tmp_path / "simpleitk.nii.gz"))
    fslmaths = [Path(sys.executable).with_name("niimath"), tmp_path / "simpleitk.nii.gz", "-add", "0", tmp_path / "fsl"]
    subprocess.run(fslmaths, check=True, capture_output=True)
    nib.save(nib.MGHImage(data, OBLIQUE), tmp_path / "freesurfer.mgz")
    for name in ("simpleitk.nii.gz", "fsl.nii.gz", "freesurfer.mgz"):
        image = read_image(tmp_path / name)
        np.testing.assert_allclose(image.data, data, rtol=1e-5)
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-4)


@pytest.mark.parametrize(
    ("sform", "message"),
    [
        (OBLIQUE @ np.diag([1, 1, 1.02, 1]), "0.5 x 0.5 x 3.06 mm by its sform, of 0.5 x 0.5 x 3 mm by its q"),
        (OBLIQUE @ np.diag([-1, 1, 1, 1]), "sform that mirrors its qform"),
        (np.diag([-1, 1, 1, 1]) @ OBLIQUE, "sform that mirrors its qform"),
    ],
)
def test_a_header_that_says_two_things_is_refused(tmp_path, sform, message):
    with pytest.raises(GeometryError, match=f"a.nii .*{message}"):
        read_image(with_forms(tmp_path / "a.nii", sform, OBLIQUE))


def test_analyze_images_are_refused_and_pairs_of_nifti_are_not(tmp_path):
    data = np.ones((4, 4, 4), np.float32)
    for kind in (nib.AnalyzeImage, nib.Spm99AnalyzeImage):
        nib.save(kind(data, np.eye(4)), tmp_path / "a.img")
        for name in ("a.img", "a.hdr"):
            with pytest.raises(GeometryError, match=f"{name} is an Analyze image.*: convert it to NIfTI"):
                read_image(tmp_path / name)
    nib.save(nib.Nifti1Pair(data, OBLIQUE), tmp_path / "b.img")
    np.testing.assert_allclose(read_image(tmp_path / "b.hdr").affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "said"), [("meter", "metres"), ("micron", "micrometres"), ("mm", ""), ("unknown", "")]
)
def test_voxels_are_in_millimetres(tmp_path, unit, said):
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii")
    if said:
        with pytest.raises(GeometryError, match=f"a.nii is in {said} .*: export it again in mm"):
            read_image(tmp_path / "a.nii")
    else:
        read_image(tmp_path / "a.nii")


def test_masks_and_labels_are_told_from_images(tmp_path):
    ramp = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    with pytest.raises(ImageError, match="not a mask"):
        read_mask(save(tmp_path / "ramp.nii", ramp))
    assert read_mask(save(tmp_path / "mask.nii", (ramp > 3).astype(np.uint8) * 255)).data.sum() == 4
    assert not read_mask(save(tmp_path / "empty.nii", np.zeros((2, 2, 2), np.uint8))).data.any()
    assert read_labels(tmp_path / "ramp.nii").data.dtype == np.int32
    with pytest.raises(ImageError, match="not a label map"):
        read_labels(save(tmp_path / "half.nii", ramp / 2))


@pytest.mark.parametrize("shape", [(30, 1, 1), (1, 30, 1), (1, 1, 30), (1, 1, 1), (4, 5, 6)])
def test_a_linear_result_is_its_own_whatever_its_shape(shape):
    data = np.random.default_rng(0).random(shape).astype(np.float32)
    found = resample(Volume(data, np.eye(4)), Grid(shape, np.eye(4)), order="linear").data
    filler = [np.full(shape, 7.0, np.float32) for _ in range(200)]
    np.testing.assert_allclose(found, data, atol=1e-6)
    assert found.flags.writeable
    assert len(filler) == 200
