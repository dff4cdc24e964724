import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from lesiondelta.errors import CohortError, GeometryError, OutputError
from lesiondelta.images import Volume, read_image, read_mask, write_volume
from lesiondelta.nnunet import dataset
from lesiondelta.nnunet.environment import environment
from lesiondelta.preprocessing.intensity import nonzero_mask, normalise
from tests.synthetic import SHAPE, write_patient, write_patients

PATCH = (32, 32, 32)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def folder(patients, tmp_path_factory):
    built = tmp_path_factory.mktemp("data")
    dataset.build(patients, built, PATCH)
    return built


def load(folder, identifier):
    with environment(folder):
        from lesiondelta.nnunet.pairs import PairDataset

        cases = PairDataset(dataset.visits_folder(folder), {"one": [identifier]}, longitudinal=False)
        data, labels, _, properties = cases.load_case("one")
        return data[:, :, :, :], labels[:], properties


def raw(visit):
    images = np.stack([read_image(visit.images[name]).data for name in ("T1w", "FLAIR")])
    return images, read_mask(visit.reference).data


def test_normalise_equals_nnunet(patients, tmp_path):
    images, _ = raw(patients[0].visits[0])
    with environment(tmp_path):
        from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

        scheme = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    inside = np.where(nonzero_mask(images), 0, -1)
    expected = np.stack([scheme.run(image.copy(), inside) for image in images])
    np.testing.assert_allclose(normalise(images), expected, atol=1e-6)


def test_a_visit_is_stored_once_normalised_and_cropped_to_the_patients_box(patients, folder):
    everything = [raw(visit) for visit in patients[2].visits]
    brain = np.logical_or.reduce([nonzero_mask(images) for images, _ in everything])
    box = dataset.bounding_box(brain)
    for index, (images, reference) in enumerate(everything):
        data, labels, _ = load(folder, f"sub-003__ses-{index + 1:02}")
        np.testing.assert_array_equal(data, normalise(images)[:, *box])
        np.testing.assert_array_equal(labels[0] == 1, reference[box])
        np.testing.assert_array_equal(labels[0] == dataset.OUTSIDE, ~brain[box])


def test_two_processes_store_the_same(patients, folder, tmp_path):
    dataset.build(patients, tmp_path, PATCH, workers=2)
    assert dataset.description(tmp_path) == dataset.description(folder)
    for identifier in dataset.description(folder)["patients"]["003"]:
        for stored, again in zip(load(folder, identifier)[:2], load(tmp_path, identifier)[:2], strict=True):
            np.testing.assert_array_equal(stored, again)


def test_lesion_places_lie_on_lesions(folder):
    _, labels, properties = load(folder, "sub-001__ses-02")
    places = properties["class_locations"][1]
    assert len(places) == np.count_nonzero(labels == 1)
    assert (labels[tuple(np.asarray(places).T)] == 1).all()


def test_nothing_is_pickled(folder):
    assert not list(folder.rglob("*.pkl"))


def test_a_visit_without_lesions_has_no_places(tmp_path):
    patient = write_patient(tmp_path, "001", 2)
    write_volume(patient.visits[0].reference, Volume(np.zeros(SHAPE, bool), np.eye(4)))
    dataset.build([patient], tmp_path / "data", PATCH)
    assert len(load(tmp_path / "data", "sub-001__ses-01")[2]["class_locations"][1]) == 0


def test_bounding_box():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert dataset.bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))


def test_the_description_lists_visits_in_time_order_and_images_stay_where_they_are(patients, folder):
    content = json.loads((folder / "patients.json").read_text())
    assert content["patients"]["003"] == [f"sub-003__ses-{i:02}" for i in (1, 2, 3)]
    raw_json = json.loads((folder / "raw" / dataset.NAME / "dataset.json").read_text())
    assert raw_json["dataset"]["sub-001__ses-01"]["images"][1] == str(patients[0].visits[0].images["FLAIR"])
    assert not list(folder.rglob("*.nii.gz"))


def test_fingerprint_has_what_nnunets_extractor_measures(patients, folder):
    visit = patients[1].visits[0]  # the only visit of its patient, so that both crop the same
    written = json.loads((dataset.preprocessed_folder(folder) / "dataset_fingerprint.json").read_text())
    with environment(folder):
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        images = [str(visit.images[name]) for name in ("T1w", "FLAIR")]
        shape, spacing, *_, share = DatasetFingerprintExtractor.analyze_case(images, str(visit.reference), SimpleITKIO)
    assert written["shapes_after_crop"][2] == list(shape)[::-1]  # theirs is (Z, Y, X)
    np.testing.assert_allclose(written["spacings"][2], spacing)
    assert written["median_relative_size_after_cropping"] == pytest.approx(share)
    bright = written["foreground_intensity_properties_per_channel"]["1"]
    assert bright["mean"] == pytest.approx(180, abs=1)  # FLAIR 100 + 80 in lesions, noise of 5
    assert bright["std"] == pytest.approx(5, abs=0.5)


def test_a_second_build_reads_nothing_again(patients, folder):
    stored = dataset.visits_folder(folder) / "sub-001__ses-01.b2nd"
    before = stored.stat().st_mtime_ns
    dataset.build(patients, folder, PATCH)
    assert stored.stat().st_mtime_ns == before


def test_other_patients_are_refused(patients, folder):
    with pytest.raises(CohortError, match="other patients"):
        dataset.build(patients[:2], folder, PATCH)


def test_data_of_another_version_are_refused(patients, tmp_path):
    found = dataset.build(patients[:1], tmp_path, PATCH)
    assert found["storage"] == dataset.STORAGE
    (tmp_path / "patients.json").write_text(json.dumps(found | {"storage": dataset.STORAGE + 1}))
    with pytest.raises(OutputError, match="another version of lesiondelta"):
        dataset.build(patients[:1], tmp_path, PATCH)


def test_an_interrupted_build_starts_again(patients, tmp_path):
    dataset.build(patients[:1], tmp_path, PATCH)
    (tmp_path / "patients.json").unlink()
    (dataset.visits_folder(tmp_path) / "sub-001__ses-02.b2nd").unlink()
    found = dataset.build(patients[:1], tmp_path, PATCH)
    assert load(tmp_path, found["patients"]["001"][1])[0].shape[0] == 2


def test_a_second_build_at_the_same_time_waits_and_takes_what_the_first_stored(patients, tmp_path, caplog):
    caplog.set_level("INFO")
    with ThreadPoolExecutor(2) as pool:  # each locks a file of its own, as processes do
        one, other = pool.map(lambda _: dataset.build(patients[:1], tmp_path, PATCH), range(2))
    assert one == other
    assert caplog.text.count("storing patient 001") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_sentence(patients, tmp_path, full_disk, workers):
    with full_disk(), pytest.raises(OutputError, match=r"Cannot write .*sub-001__ses-01"):
        dataset.build(patients[:1], tmp_path, PATCH, workers)
    assert dataset.build(patients[:1], tmp_path, PATCH)["patients"].keys() == {"001"}


def test_no_lesion_at_all(tmp_path):
    patient = write_patient(tmp_path, "001", 1)
    write_volume(patient.visits[0].reference, Volume(np.zeros(SHAPE, bool), np.eye(4)))
    with pytest.raises(CohortError, match="nothing to learn"):
        dataset.build([patient], tmp_path / "data", PATCH)


def test_visits_on_two_grids(tmp_path):
    patient = write_patient(tmp_path, "001", 2)
    path = patient.visits[1].images["FLAIR"]
    shifted = np.eye(4)
    shifted[0, 3] = 2
    write_volume(path, Volume(read_image(path).data, shifted))
    with pytest.raises(GeometryError, match=r"2\.00 mm apart"):
        dataset.build([patient], tmp_path / "data", PATCH)


def test_patients_of_two_voxel_sizes(tmp_path):
    one, other = write_patient(tmp_path, "001", 1), write_patient(tmp_path, "002", 1)
    for path in [*other.visits[0].images.values(), other.visits[0].reference]:
        write_volume(path, Volume(read_image(path).data, np.diag([2.0, 2, 2, 1])))
    with pytest.raises(GeometryError, match="sub-002__ses-01"):
        dataset.build([one, other], tmp_path / "data", PATCH)


def test_unsure_voxels_are_stored_as_what_the_loss_ignores(tmp_path):
    """Lesions are sure, and a visit without such a mask has none of it."""
    from tests.synthetic import ball

    patient, other = write_patients(tmp_path, (1, 1))
    visit = patient.visits[0]
    reference = read_mask(visit.reference)
    path = tmp_path / "unsure.nii.gz"
    write_volume(path, reference.with_data(ball([n // 2 for n in SHAPE], 6)))
    changed = replace(patient, visits=(replace(visit, unsure=path),))
    dataset.build([changed, other], tmp_path / "data", PATCH)
    _, stored, properties = load(tmp_path / "data", "sub-001__ses-01")
    _, plain, _ = load(tmp_path / "data", "sub-002__ses-01")
    expected = ball([n // 2 for n in SHAPE], 6) & ~reference.data
    assert np.count_nonzero(stored == 2) == np.count_nonzero(expected) > 0
    assert np.count_nonzero(stored == 1) == np.count_nonzero(reference.data)
    assert not (plain == 2).any()
    known = properties["class_locations"][-1, 0, 1]
    assert set(stored[tuple(known.T)].tolist()) == {0, 1}
    written = json.loads((tmp_path / "data" / "raw" / dataset.NAME / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "lesion": 1, "ignore": 2}
    with pytest.raises(CohortError, match="other patients' training data"):
        dataset.build([patient, other], tmp_path / "data", PATCH)
