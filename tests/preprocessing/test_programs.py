import json
import stat
import sys

import numpy as np
import pytest

from lesiondelta.errors import DependencyError, RegistrationError
from lesiondelta.images import Grid, Volume
from lesiondelta.preprocessing import brain, programs

PYTHON = sys.executable


def executable(folder, name, body):
    """A program of its own, found on PATH."""
    path = folder / name
    path.write_text(f"#!{PYTHON}\nimport sys\narguments = sys.argv[1:]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


@pytest.fixture
def image():
    return Volume(np.random.default_rng(0).random((4, 5, 6), np.float32), np.diag([2.0, 2.0, 3.0, 1.0]), "a.nii.gz")


def test_fsl_matrix_by_hand_with_x_growing_left():
    """Both det < 0: FSL's coordinates are voxel times spacing, and world x is the negative of them."""
    grid = Grid((10, 10, 10), np.diag([-2.0, 2.0, 2.0, 1.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = 3, 4, 5  # moving + (3, 4, 5) = fixed, in FSL's coordinates
    expected = np.eye(4)
    expected[:3, 3] = 3, -4, -5
    np.testing.assert_allclose(programs.from_fsl(matrix, grid, grid), expected)


def test_fsl_matrix_by_hand_with_x_growing_right():
    """Fixed det > 0: its FSL x is (N - 1 - i) * spacing. Identity in FSL's coordinates then mirrors the voxel grid."""
    fixed = Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
    moving = Grid((10, 10, 10), np.diag([-2.0, 2.0, 2.0, 1.0]))
    moved = programs.from_fsl(np.eye(4), fixed, moving) @ [4.0, 6.0, 8.0, 1.0]
    # fixed voxel (2, 3, 4) -> FSL (14, 6, 8) -> moving voxel (7, 3, 4) -> world (-14, 6, 8)
    np.testing.assert_allclose(moved, [-14, 6, 8, 1])


def test_flirt_is_called_and_its_matrix_read(bin_folder, image):
    executable(
        bin_folder,
        "flirt",
        "assert arguments[arguments.index('-dof') + 1] == '12'\n"
        "import pathlib\n"
        "assert pathlib.Path(arguments[arguments.index('-ref') + 1]).is_file()\n"
        "target = arguments[arguments.index('-omat') + 1]\n"
        "open(target, 'w').write('1 0 0 1\\n0 1 0 0\\n0 0 1 0\\n0 0 0 1\\n')",
    )
    found = programs.flirt(image, image, degrees=12)
    expected = np.eye(4)
    expected[0, 3] = 1  # FSL's x runs against world x here, and the matrix is inverted: twice a change of sign
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_niimath_is_called_and_its_matrix_read(bin_folder, image):
    matrix = [[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]
    executable(
        bin_folder,
        "niimath",
        "assert '-com' in arguments\n"
        "target = arguments[arguments.index('-savemat') + 1]\n"
        f"open(target, 'w').write({json.dumps({'fixed_to_moving': matrix})!r})",
    )
    np.testing.assert_array_equal(programs.niimath(image, image, degrees=12), matrix)


@pytest.mark.parametrize(("engine", "advice"), [(programs.flirt, "install FSL"), (programs.niimath, "pip install")])
def test_absent_program_says_how_to_get_it(bin_folder, image, engine, advice):
    with pytest.raises(DependencyError, match=advice):
        engine(image, image, degrees=6)


def test_failing_program_is_quoted(bin_folder, image):
    executable(bin_folder, "flirt", "sys.exit('no overlap')")
    with pytest.raises(RegistrationError, match=r"a.nii.gz.*no overlap"):
        programs.flirt(image, image, degrees=6)


@pytest.mark.parametrize(("method", "program"), [("hd-bet", "hd-bet"), ("synthstrip", "mri_synthstrip")])
def test_brain_extraction_programs(bin_folder, image, method, program):
    executable(
        bin_folder,
        program,
        f"sys.path[:] = {sys.path!r}\n"
        "import nibabel as nib, numpy as np\n"
        "head = nib.load(arguments[arguments.index('-i') + 1])\n"
        "flag = '-m' if '-m' in arguments else '-o'\n"
        "target = arguments[arguments.index(flag) + 1]\n"
        "target = target if flag == '-m' else target.replace('.nii.gz', '_bet.nii.gz')\n"
        "nib.save(nib.Nifti1Image((head.get_fdata() > 0.5).astype(np.uint8), head.affine), target)",
    )
    found = brain.program_mask(image, method)
    np.testing.assert_array_equal(found.data, image.data > 0.5)


@pytest.mark.parametrize("method", ["hd-bet", "synthstrip"])
def test_absent_brain_extraction(bin_folder, image, method):
    with pytest.raises(DependencyError, match="atlas"):
        brain.program_mask(image, method)
