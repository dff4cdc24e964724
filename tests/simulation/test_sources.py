"""People and lesion masks found in folders, and what is made of them."""

import numpy as np
import pytest

from lesiondelta.errors import CohortError, ImageError, RegistrationError
from lesiondelta.formats.bids import read_cohort
from lesiondelta.images import Volume, write_volume
from lesiondelta.simulation import Acquisition, Person, find_lesion_masks, find_people, write_cohort
from lesiondelta.simulation.anatomy import atlas_to, mni152_anatomy
from tests.tiny import call


@pytest.fixture(scope="module")
def people(aligned_patient, tmp_path_factory):
    """A person's first visit in a folder of its own, as somebody might keep it."""
    folder = tmp_path_factory.mktemp("people")
    visit = aligned_patient.visits[0]
    for name, image in visit.images.items():
        write_volume(folder / "a" / f"someone_{name}.nii.gz", image)
    write_volume(folder / "a" / "someone_space-x_label-lesion_mask.nii.gz", visit.lesions)
    return folder


def test_people_are_found_in_subfolders(people):
    (person,) = find_people(people)
    assert [path.name for path in (person.t1w, person.flair)] == ["someone_T1w.nii.gz", "someone_FLAIR.nii.gz"]
    assert person.lesions.name.endswith("_mask.nii.gz")


def test_a_person_without_a_mask_or_a_folder_without_people(people, tmp_path):
    write_volume(tmp_path / "x_T1w.nii.gz", Volume(np.ones((4, 4, 4), np.float32), np.eye(4)))
    with pytest.raises(CohortError, match=r"needs one x_FLAIR and one x_\.\.\._mask beside it, and has 0 and 0"):
        find_people(tmp_path)
    (tmp_path / "x_T1w.nii.gz").unlink()
    with pytest.raises(CohortError, match="holds no NAME_T1w"):
        find_people(tmp_path)
    with pytest.raises(CohortError, match="is not a folder"):
        find_people(tmp_path / "absent")


def test_the_atlas_is_registered_to_a_brain_of_another_size():
    """A person is the atlas, smaller along every axis by known factors and otherwise deformed."""
    anatomy = mni152_anatomy(3, spacing_mm=2.0)
    found = atlas_to(Volume(anatomy.healthy["T1w"], anatomy.affine))
    ventricles = np.array([[20.0, -30, 20, 1], [-20, -30, 20, 1], [0, -25, -32, 1]]) @ found.T
    voxels = np.rint(ventricles @ np.linalg.inv(anatomy.affine).T)[:, :3].astype(int)
    near = [anatomy.regions[tuple(slice(v - 2, v + 3) for v in voxel)] for voxel in voxels]
    assert (near[0] == 1).any()
    assert (near[1] == 1).any()
    assert (near[2] == 5).all()


def test_what_is_no_brain_is_refused(tmp_path):
    """A block that fills the image."""
    data = np.full((60, 60, 60), 100, np.float32)
    data[:2] = 0
    for name in ("T1w", "FLAIR"):
        write_volume(tmp_path / f"x_{name}.nii.gz", Volume(data, np.diag([3.0, 3, 3, 1])))
    write_volume(tmp_path / "x_mask.nii.gz", Volume(np.zeros(data.shape, bool), np.diag([3.0, 3, 3, 1])))
    (person,) = find_people(tmp_path)
    with pytest.raises(RegistrationError):
        person.anatomy(0)


def test_masks_without_lesions_are_named(tmp_path):
    with pytest.raises(CohortError, match=r"holds no \.\.\._mask"):
        find_lesion_masks(tmp_path)
    write_volume(tmp_path / "empty_mask.nii.gz", Volume(np.zeros((9, 9, 9), bool), np.eye(4)))
    with pytest.raises(ImageError, match=r"empty_mask\.nii\.gz holds no lesion"):
        find_lesion_masks(tmp_path)


def test_a_cohort_of_real_people(people, tmp_path, capsys):
    options = ("--patients", 2, "--visits", 2, "--seed", 4, "--anatomy", people)
    assert call(capsys, "simulate", tmp_path / "c", *options).code == 0
    first, second = read_cohort(tmp_path / "c").patients
    assert len(first.visits) == len(second.visits) == 2
    images = [patient.visits[0].images["FLAIR"].read_bytes() for patient in (first, second)]
    assert images[0] != images[1]  # each deformed in its own way
    assert call(capsys, "simulate", tmp_path / "again", *options).code == 0
    again = read_cohort(tmp_path / "again").patients[1]
    assert again.visits[0].images["FLAIR"].read_bytes() == images[1]
    write = (tmp_path / "c", 2, 2, 4)
    with pytest.raises(Exception, match="other settings"):
        write_cohort(*write, acquisition=Acquisition("native"))


def test_persons_of_equal_files_are_equal(people):
    (person,) = find_people(people)
    assert person.identity == Person(person.t1w, person.flair, person.lesions).identity
