from collections import Counter

import numpy as np
import pytest

from lesiondelta.errors import CohortError
from lesiondelta.nnunet import dataset
from lesiondelta.nnunet.environment import environment
from tests.synthetic import write_patients


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    content = dataset.build(write_patients(tmp_path_factory.mktemp("images")), folder, (32, 32, 32))
    return folder, content["patients"]


@pytest.fixture
def pairs(stored):
    """The module, imported where nnU-Net's variables are set."""
    with environment(stored[0]):
        from lesiondelta.nnunet import pairs

        yield pairs


def open_dataset(pairs, stored, **options):
    folder, patients = stored
    return pairs.PairDataset(dataset.visits_folder(folder), patients, **{"longitudinal": True, **options})


def visit_data(pairs, stored, identifier):
    return open_dataset(pairs, stored)._open(identifier)[:]


@pytest.mark.parametrize(
    ("policy", "expected"), [("previous", [1, 0, 1, 2]), ("baseline", [1, 0, 0, 0]), ("random", None)]
)
def test_prior_policies(pairs, policy, expected):
    drawn = [{pairs.draw_prior(i, 4, policy) for _ in range(100)} for i in range(4)]
    assert drawn == ([{p} for p in expected] if expected else [{0, 1, 2, 3} - {i} for i in range(4)])


def test_a_single_visit_is_its_own_prior(pairs):
    assert {pairs.draw_prior(0, 1, policy) for policy in ("previous", "baseline", "random")} == {0}


def test_share_of_self_priors(pairs):
    np.random.seed(0)
    assert {pairs.draw_prior(1, 3, "previous", 0.0) for _ in range(200)} == {0}
    selves = sum(pairs.draw_prior(1, 3, "previous", 0.25) == 1 for _ in range(4000))
    assert selves == pytest.approx(1000, abs=100)


def test_a_pair_is_current_then_prior_with_the_labels_of_the_current(pairs, stored):
    cases = open_dataset(pairs, stored)
    np.random.seed(1)
    seen = set()
    for _ in range(20):
        data, labels, previous_stage, properties = cases.load_case("003")
        joined = data[:, :, :, :]
        current = next(v for v in range(3) if np.array_equal(joined[:2], visit_data(pairs, stored, visits("003")[v])))
        prior = 1 if current == 0 else current - 1
        np.testing.assert_array_equal(joined[2:], visit_data(pairs, stored, visits("003")[prior]))
        np.testing.assert_array_equal(labels[:], visit_data(pairs, stored, f"{visits('003')[current]}_seg"))
        assert len(properties["class_locations"][1]) == np.count_nonzero(labels[:] == 1)
        assert previous_stage is None
        seen.add(current)
    assert seen == {0, 1, 2}


def visits(patient):
    return [f"sub-{patient}__ses-{i:02}" for i in (1, 2, 3)]


def test_pickled_places_of_an_earlier_version_are_not_read(pairs, tmp_path):
    content = dataset.build(write_patients(tmp_path, (1,)), tmp_path / "data", (32, 32, 32))
    visits = dataset.visits_folder(tmp_path / "data")
    path = dataset.places_path(visits, "sub-001__ses-01")
    np.savez(path, lesion=np.array([object()]))
    with pytest.raises(ValueError, match="allow_pickle"):
        open_dataset(pairs, (tmp_path / "data", content["patients"])).load_case("001")
    path.rename(visits / "sub-001__ses-01.pkl")
    with pytest.raises(CohortError, match=rf"Delete the folder {tmp_path / 'data'}"):
        open_dataset(pairs, (tmp_path / "data", content["patients"]))


def test_single_visit_methods_read_the_current_visit_alone(pairs, stored):
    data, _, _, _ = open_dataset(pairs, stored, longitudinal=False).load_case("002")
    np.testing.assert_array_equal(data[:, :, :, :], visit_data(pairs, stored, "sub-002__ses-01"))


def test_a_patch_read_through_nnunets_crop_equals_the_crop_of_the_whole(pairs, stored):
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

    data, _, _, _ = open_dataset(pairs, stored).load_case("001")
    whole = data[:, :, :, :]
    for box in ([[-3, 20], [5, 40], [10, 20]], [[0, 8], [0, 8], [0, 8]], [[30, 60], [-10, 70], [3, 4]]):
        np.testing.assert_array_equal(crop_and_pad_nd(data, box, 0), crop_and_pad_nd(whole, box, 0))


def test_only_the_slice_is_decompressed(pairs):
    class Recorder:
        shape, dtype = (2, 9, 9, 9), np.dtype("float32")

        def __getitem__(self, index):
            self.index = index
            return np.zeros((2, 3, 3, 3), np.float32)

    current, prior = Recorder(), Recorder()
    index = (slice(None), slice(0, 3), slice(3, 6), slice(6, 9))
    joined = pairs.Joined(current, prior)
    assert (joined.shape, joined.ndim) == ((4, 9, 9, 9), 4)
    assert joined[index].shape == (4, 3, 3, 3)
    assert current.index == prior.index == index


def test_patients_are_drawn_uniformly_whatever_their_number_of_visits(pairs, stored):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = LabelManager({"background": 0, "lesion": 1}, None)
    loader = nnUNetDataLoader(open_dataset(pairs, stored), 2, (16, 16, 16), (16, 16, 16), labels)
    np.random.seed(0)
    counts = Counter(patient for _ in range(1500) for patient in loader.get_indices())
    assert {patient: round(n / 100) for patient, n in counts.items()} == {"001": 10, "002": 10, "003": 10}


def test_oversampled_patches_are_centred_on_a_lesion_of_the_current_visit(pairs, stored):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = LabelManager({"background": 0, "lesion": 1}, None)
    loader = nnUNetDataLoader(
        open_dataset(pairs, stored), 2, (9, 9, 9), (9, 9, 9), labels, oversample_foreground_percent=0.33
    )
    np.random.seed(0)
    centres = [next(loader)["target"][1, 0, 4, 4, 4] for _ in range(10)]
    assert all(centre == 1 for centre in centres)
