"""What was seen in an image is looked at once, whoever asks; and it stays private."""

import stat

import numpy as np
import pytest
from metrics.pairs import noise

from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.evaluation.feature_store import FeatureStore, delete, store_file
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import resized
from unsafe2safe.vision.perception import Perception


@pytest.fixture(scope="module")
def perception():
    return Perception(load("evaluate", []).vision, 1)


@pytest.fixture(scope="module")
def picture():
    photo = decode_file(photos_folder() / "portrait_wall.jpg", "portrait_wall.jpg").pixels
    return resized(photo[: photo.shape[0] // 2], 240, 640)


class Blind:
    """A perception that must not be asked."""

    def __init__(self, version):
        self.version = version

    def __getattr__(self, name):
        raise AssertionError(f"{name} was looked for again")


def test_what_was_seen_comes_back_exactly_without_looking(tmp_path, perception, picture):
    with FeatureStore(tmp_path, "set") as store:
        first = ImageFeatures(picture, perception, store)
        seen = (first.faces, first.embeddings, first.lines, first.efficientnet)
    assert len(seen[0]) > 1
    with FeatureStore(tmp_path, "set") as store:
        again = ImageFeatures(picture.copy(), Blind(perception.version), store)
        assert [(f.box, f.score) for f in again.faces] == [(f.box, f.score) for f in seen[0]]
        for face, other in zip(again.faces, seen[0], strict=True):
            assert np.array_equal(face.landmarks, other.landmarks)
        assert np.array_equal(again.embeddings, seen[1])
        assert [(x.text, x.box, x.score) for x in again.lines] == [
            (x.text, x.box, x.score) for x in seen[2]
        ]
        assert np.array_equal(again.efficientnet, seen[3])


def test_another_picture_or_another_setting_is_looked_at(tmp_path, perception, picture):
    with FeatureStore(tmp_path, "set") as store:
        _ = ImageFeatures(picture, perception, store).faces
        changed = picture.copy()
        changed[0, 0, 0] ^= 1
        stricter = Perception(
            perception.settings.model_copy(update={"face_threshold": 0.9}), perception.threads
        )
        for pixels, version in ((changed, perception.version), (picture, stricter.version)):
            with pytest.raises(AssertionError, match="faces was looked for again"):
                _ = ImageFeatures(pixels, Blind(version), store).faces


def test_images_of_one_content_but_other_shapes_are_told_apart(tmp_path):
    pixels = noise(12, 20)
    with FeatureStore(tmp_path, "set") as store:
        assert store.content(pixels) != store.content(pixels.reshape(20, 12, 3))
        assert store.content(pixels[:, ::2]) == store.content(pixels[:, ::2].copy())


def test_only_its_owner_may_read_the_store_and_contents_are_keyed(tmp_path, picture):
    with FeatureStore(tmp_path / "one", "set") as one, FeatureStore(tmp_path / "two", "set") as two:
        assert one.content(picture) != two.content(picture)
        one.put(one.content(picture), "what", {"a": np.ones(3)})
        for file in one.path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name
        assert stat.S_IMODE(one.path.parent.stat().st_mode) == 0o700


def test_a_damaged_store_is_begun_anew_and_damaged_arrays_are_computed_again(tmp_path):
    path = store_file(tmp_path, "set")
    path.parent.mkdir()
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    with FeatureStore(tmp_path, "set") as store:
        store.put("c", "what", {"a": np.arange(4)})
        assert store.get("c", "what")["a"].tolist() == [0, 1, 2, 3]
        assert store.get("c", "other") is None
        with store._connection:
            store._connection.execute("UPDATE features SET arrays = x'00ff'")
        assert store.get("c", "what") is None


def test_two_writers_do_not_lose_what_the_other_put(tmp_path):
    with FeatureStore(tmp_path, "set") as one, FeatureStore(tmp_path, "set") as two:
        for index in range(20):
            (one, two)[index % 2].put(str(index), "what", {"a": np.array([index])})
        assert all(one.get(str(index), "what")["a"][0] == index for index in range(20))


def test_deleting_leaves_nothing(tmp_path):
    store = FeatureStore(tmp_path, "set")
    store.put("c", "what", {"a": np.ones(2)})
    assert delete(store.path) >= 1
    store._connection.close()
    assert list(store.path.parent.iterdir()) == []
