"""People and lesion masks found in folders, and what is made of them."""

import shutil

import numpy as np
import pytest

from lesiondelta.atlas import mni152
from lesiondelta.errors import CohortError, GeometryError, ImageError, OutputError, RegistrationError
from lesiondelta.images import Volume, read_image, read_mask, resample, write_volume
from lesiondelta.inputs.bids import read_cohort
from lesiondelta.preprocessing.regions import atlas_to
from lesiondelta.simulation import (
    Acquisition,
    CohortPlan,
    Person,
    find_lesion_masks,
    find_people,
    image_anatomy,
    write_cohort,
)
from lesiondelta.simulation.anatomy import from_masks
from lesiondelta.simulation.fields import rigid, rotation
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


LANDMARKS = np.array([[20.0, -30, 20, 1], [-20, -30, 20, 1], [0, -25, -32, 1], [0, 45, 0, 1], [0, -90, 5, 1]])


def test_the_atlas_is_registered_to_a_brain_of_another_size_and_place():
    """The person is the atlas itself, smaller, turned and moved by known amounts."""
    atlas = mni152("t1w", 2)
    truth = np.diag([0.85, 0.8, 0.88, 1.0])
    truth[:3, :3] = rotation(np.array([4.0, -3, 6]))[:3, :3] @ truth[:3, :3]
    truth[:3, 3] = 20, -15, 10
    moved = Volume(atlas.data, truth @ atlas.affine, "moved")
    person = resample(moved, atlas.grid, np.eye(4), order="linear")
    miss = np.linalg.norm((LANDMARKS @ atlas_to(person).T - LANDMARKS @ truth.T)[:, :3], axis=1)
    assert miss.max() < 2.0
    assert np.linalg.norm((LANDMARKS - LANDMARKS @ truth.T)[:, :3], axis=1).min() > 10


def test_places_of_real_lesions_follow_the_registration_in_turn_and_place():
    """The same person with the origin of the images elsewhere gets the lesions at the same places of the brain."""
    matrix = from_masks(np.diag([0.9, 0.9, 0.9, 1.0]))
    np.testing.assert_allclose(matrix, np.eye(4), atol=1e-9)
    elsewhere = np.diag([0.9, 0.9, 0.9, 1.0])
    elsewhere[:3, 3] = 60, -80, 40
    point = np.array([12.0, 30, 22, 1])
    np.testing.assert_allclose(from_masks(elsewhere) @ point, [72, -50, 62, 1], atol=1e-9)
    turned = rotation(np.array([0.0, 0, 90])) @ np.diag([0.9, 0.9, 0.9, 1.0])
    np.testing.assert_allclose(from_masks(turned) @ point, [-30, 12, 22, 1], atol=1e-9)


def test_what_would_be_simulated_wrongly_is_refused(people, tmp_path):
    """Voxels that are not cubes, oblique ones, a brain mask for the lesions, and an atlas laid elsewhere."""
    (person,) = find_people(people)
    t1w, flair, lesions = read_image(person.t1w), read_image(person.flair), read_mask(person.lesions)

    def moved(matrix):
        return [Volume(volume.data, matrix @ volume.affine, volume.name) for volume in (t1w, flair, lesions)]

    for matrix in (np.diag([1, 1, 1.5, 1]), rotation(np.array([0.0, 20, 0]))):
        with pytest.raises(GeometryError, match="cubic voxels along the axes"):
            image_anatomy(*moved(matrix))
    with pytest.raises(ImageError, match="of the brain: it is not a mask of lesions"):
        image_anatomy(t1w, flair, lesions.with_data(t1w.data > 0))
    with pytest.raises(RegistrationError, match="could not be laid upon the brain"):
        image_anatomy(t1w, flair, lesions, register=lambda _: rigid(np.zeros(3), np.zeros(3), np.array([90.0, 0, 0])))


def test_brain_masks_and_longer_names_are_nobody_elses(people, tmp_path):
    (person,) = find_people(people)
    for stem in ("P1", "P1_b"):
        for path, ending in ((person.t1w, "T1w"), (person.flair, "FLAIR"), (person.lesions, "lesion_mask")):
            shutil.copy(path, tmp_path / f"{stem}_{ending}.nii.gz")
    shutil.copy(person.lesions, tmp_path / "P1_desc-brain_mask.nii.gz")
    assert [found.lesions.name for found in find_people(tmp_path)] == [
        "P1_lesion_mask.nii.gz",
        "P1_b_lesion_mask.nii.gz",
    ]


def test_images_that_belong_to_nobody_are_named(people, tmp_path, caplog):
    """A T1w called otherwise, and one session without; what macOS keeps beside is nobody's."""
    (person,) = find_people(people)
    assert not caplog.text
    for stem in ("A", "B", "A_ses-3"):
        for path, ending in ((person.t1w, "T1w"), (person.flair, "FLAIR"), (person.lesions, "lesion_mask")):
            shutil.copy(path, tmp_path / f"{stem}_{ending}.nii.gz")
            (tmp_path / f"._{stem}_{ending}.nii.gz").touch()
    shutil.copy(person.lesions, tmp_path / "C_desc-brain_mask.nii.gz")
    (tmp_path / "B_T1w.nii.gz").rename(tmp_path / "B_T1.nii.gz")
    (tmp_path / "A_ses-3_T1w.nii.gz").unlink()
    (found,) = find_people(tmp_path)
    assert (found.t1w.name, found.lesions.name) == ("A_T1w.nii.gz", "A_lesion_mask.nii.gz")
    others = [f"{stem}_{ending}.nii.gz" for ending in ("FLAIR", "lesion_mask") for stem in ("A_ses-3", "B")]
    said = f"of the same name beside them (4): {', '.join(str(tmp_path / name) for name in others)}"
    assert said in caplog.text


def test_capitals_and_odd_characters_in_names_do_not_count(people, tmp_path):
    (person,) = find_people(people)
    for path, ending in ((person.t1w, "t1w.NII.GZ"), (person.flair, "Flair.Nii.gz"), (person.lesions, "MASK.NII.GZ")):
        shutil.copy(path, tmp_path / f"a[1]_{ending}")
    shutil.copy(person.lesions, tmp_path / "a[1]_Brain_mask.nii.gz")
    (found,) = find_people(tmp_path)
    names = [path.name for path in (found.t1w, found.flair, found.lesions)]
    assert names == ["a[1]_t1w.NII.GZ", "a[1]_Flair.Nii.gz", "a[1]_MASK.NII.GZ"]


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
    with pytest.raises(OutputError, match="other settings"):
        write_cohort(tmp_path / "c", CohortPlan(2, 2, 4, Acquisition("native")))


def test_a_person_is_identified_by_what_is_in_the_files(people, tmp_path):
    (person,) = find_people(people)
    copies = [shutil.copy(path, tmp_path / path.name) for path in (person.t1w, person.flair, person.lesions)]
    assert Person(*copies).identity == person.identity
    assert Person(*copies[1:], copies[0]).identity != person.identity
