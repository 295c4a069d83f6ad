"""Tests embedding once and scoring many times."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.sets.embedding_cache import embed_images, embed_pair_set
from evaluation.sets.pair_set import load_pair_set
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.errors import DataError
from facekd.images.preprocessing import Preprocessing
from tests.evaluation.conftest import make_pack, quarters


class CountingEmbedder:
    """The model in numpy; counts the images it was shown."""

    preprocessing = Preprocessing(image_size=16)
    embedding_size = 12
    normalized = False

    def __init__(self, fingerprint: str = "f00d") -> None:
        self.fingerprint = fingerprint
        self.num_images = 0

    def embed(self, images: np.ndarray) -> np.ndarray:
        assert images.flags.c_contiguous
        self.num_images += len(images)
        return quarters(images)


def test_the_mirror_image_is_embedded_and_added(pack):
    pair_set = load_pair_set(pack)
    images = pair_set.decode(0, 80)
    plain = embed_pair_set(CountingEmbedder(), pair_set, flip=False)
    both = embed_pair_set(CountingEmbedder(), pair_set, flip=True)
    np.testing.assert_array_equal(plain, quarters(images))
    np.testing.assert_allclose(both, quarters(images) + quarters(images[:, :, ::-1]), rtol=1e-6)


@pytest.mark.parametrize("images_at_once", [1, 7, 80, 1000])
def test_batches_do_not_show(pack, monkeypatch, images_at_once):
    monkeypatch.setattr("evaluation.sets.embedding_cache.IMAGES_CHUNK", images_at_once)
    pair_set = load_pair_set(pack)
    [part] = embed_images(quarters, pair_set, 3, 20)
    np.testing.assert_array_equal(part, quarters(pair_set.decode(3, 20)))


def test_cached_embeddings_are_used_again_and_only_what_is_missing_is_embedded(tmp_path, pack):
    pair_set, cache = load_pair_set(pack), tmp_path / "cache"
    embedder = CountingEmbedder()
    plain = embed_pair_set(embedder, pair_set, False, cache)
    assert embedder.num_images == 80
    both = embed_pair_set(embedder, pair_set, True, cache)
    assert embedder.num_images == 160  # the mirror images alone
    again = embed_pair_set(embedder, load_pair_set(pack, folds=4), True, cache)
    assert embedder.num_images == 160
    np.testing.assert_array_equal(again, both)
    np.testing.assert_array_equal(embed_pair_set(embedder, pair_set, False, cache), plain)


@pytest.mark.parametrize("images_at_once", [1, 5, 256])
def test_an_image_in_several_pairs_is_embedded_once(tmp_path, pack, monkeypatch, images_at_once):
    monkeypatch.setattr("evaluation.sets.embedding_cache.IMAGES_CHUNK", images_at_once)
    images = list(load_pair_set(pack).images)
    which = np.random.default_rng(0).integers(0, 30, 40)
    write_pair_pack(tmp_path / "repeated.bin", [images[image] for image in which], np.arange(20) % 2 == 0)
    pair_set, embedder = load_pair_set(tmp_path / "repeated.bin", folds=2), CountingEmbedder()
    found = embed_pair_set(embedder, pair_set, True)
    assert embedder.num_images == 2 * len(np.unique(which)) < 2 * len(which)
    decoded = pair_set.decode(0, 40)
    np.testing.assert_allclose(found, quarters(decoded) + quarters(decoded[:, :, ::-1]), rtol=1e-6)


def test_an_odd_size_behind_a_repeated_image_is_named(tmp_path, pack):
    images = list(load_pair_set(pack).images)
    odd = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    write_pair_pack(tmp_path / "odd.bin", [images[0], images[0], images[1], odd], [True, False])
    pair_set = load_pair_set(tmp_path / "odd.bin", folds=2, fold_kind="contiguous")
    with pytest.raises(DataError, match=r"image 3 \(pair 1\) is 8x8 pixels"):
        embed_pair_set(CountingEmbedder(), pair_set, False)


def test_another_model_or_another_pack_never_meets_old_embeddings(tmp_path):
    cache = tmp_path / "cache"
    # BMP: images of equal length, so that only their content tells the packs apart.
    pack, other_pack = (make_pack(tmp_path, seed=seed, name=f"pack_{seed}", suffix=".bmp") for seed in (0, 1))
    embed_pair_set(CountingEmbedder(), load_pair_set(pack), False, cache)
    other_model, same_model = CountingEmbedder("beef"), CountingEmbedder()
    embed_pair_set(other_model, load_pair_set(pack), False, cache)
    found = embed_pair_set(same_model, load_pair_set(other_pack), False, cache)
    assert other_model.num_images == same_model.num_images == 80
    np.testing.assert_array_equal(found, quarters(load_pair_set(other_pack).decode(0, 80)))


def test_whatever_byte_is_damaged_the_embeddings_stay_right(tmp_path, pack):
    pair_set, cache = load_pair_set(pack), tmp_path / "cache"
    expected = embed_pair_set(CountingEmbedder(), pair_set, False, cache)
    [file] = cache.iterdir()
    whole = file.read_bytes()
    places = [*range(0, 128, 7), *range(128, len(whole), 301), *range(len(whole) - 16, len(whole), 3)]
    for content in [whole[:p] + bytes([whole[p] ^ 1 << p % 8]) + whole[p + 1 :] for p in places] + [whole[:-1]]:
        file.write_bytes(content)
        np.testing.assert_array_equal(embed_pair_set(CountingEmbedder(), pair_set, False, cache), expected)


@pytest.mark.parametrize("damage", [b"", b"not numpy", "another shape"])
def test_a_damaged_cache_is_embedded_again(tmp_path, pack, damage, capsys):
    pair_set, cache = load_pair_set(pack), tmp_path / "cache"
    expected = embed_pair_set(CountingEmbedder(), pair_set, False, cache)
    [file] = cache.iterdir()
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        np.save(file, np.zeros((3, 12), np.float32))
    embedder = CountingEmbedder()
    np.testing.assert_array_equal(embed_pair_set(embedder, pair_set, False, cache), expected)
    assert embedder.num_images == 80
    assert "embedding again" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(file), expected)


def test_embeddings_of_another_model_under_this_ones_name_are_made_again(tmp_path, pack, capsys):
    pair_set, cache = load_pair_set(pack), tmp_path / "cache"
    expected = embed_pair_set(CountingEmbedder(), pair_set, True, cache)
    plain, mirrored = (next(cache.glob(f"*-{side}.npy")) for side in ("plain", "mirrored"))
    plain.write_bytes(mirrored.read_bytes())  # sound, and of the right shape
    embedder = CountingEmbedder()
    np.testing.assert_array_equal(embed_pair_set(embedder, pair_set, True, cache), expected)
    assert embedder.num_images == 80
    assert f"{plain}: cannot be used (damaged, or of an earlier facekd); embedding again" in capsys.readouterr().err
