"""Verification during training, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluation.sets.embedding_cache import embed_images
from evaluation.sets.pair_set import load_pair_set
from evaluation.validators import PairSetValidator
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError
from facekd.verification import equal_error_rate, kfold_accuracy
from facekd.verification.scores import cosines
from tests.evaluation.conftest import make_pack, quarters


class Exchanged(Exception):
    """Carries what a rank handed to the exchange."""


def run_on(validator: PairSetValidator, embed: Callable, world_size: int) -> list[dict[str, float]]:
    """Play every rank in turn: first to learn what it gives, then with the concatenation of all."""

    def give(rows: np.ndarray) -> np.ndarray:
        raise Exchanged(rows)

    given = []
    for rank in range(world_size):
        with pytest.raises(Exchanged) as caught:
            validator(embed, rank, world_size, give)
        given.append(caught.value.args[0])
    assert len({rows.shape for rows in given}) == 1  # a collective needs equal shapes
    return [validator(embed, rank, world_size, lambda rows: np.concatenate(given)) for rank in range(world_size)]


@pytest.mark.parametrize("flip", [True, False])
def test_measures_what_the_metrics_say(pack, flip):
    pair_set = load_pair_set(pack)
    embeddings = sum(embed_images(quarters, pair_set, mirrors=(False, True) if flip else (False,)))
    scores = cosines(embeddings[0::2], embeddings[1::2], pair_set.path)
    found = PairSetValidator(pack, flip=flip)(quarters)
    assert found["accuracy"] == kfold_accuracy(scores, pair_set.is_same, 10).mean
    assert found["eer"] == equal_error_rate(scores[pair_set.is_same], scores[~pair_set.is_same])
    assert all(isinstance(value, float) for value in found.values())


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 100])
def test_every_rank_says_the_same_as_one_process(pack, world_size):
    validator = PairSetValidator(pack)
    alone = validator(quarters)
    assert run_on(validator, quarters, world_size) == [alone] * world_size


def test_the_work_is_shared_out(pack):
    seen: list[int] = []

    def embed(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return quarters(images)

    validator = PairSetValidator(pack, flip=False)
    with pytest.raises(Exchanged):
        validator(embed, 1, 4, lambda rows: (_ for _ in ()).throw(Exchanged(rows)))
    assert sum(seen) == 20  # of 80 images


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_image_of_several_pairs_is_embedded_once(tmp_path, pack, world_size):
    whole = read_pair_pack(pack)
    images = [whole.images[number % 14] for number in range(80)]
    is_same = np.arange(40) % 2 == 0
    path = tmp_path / "repeated.bin"
    write_pair_pack(path, images, is_same)
    seen: list[int] = []

    def embed(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return quarters(images)

    found = run_on(PairSetValidator(path), embed, world_size)[0]
    assert sum(seen) == 2 * 2 * world_size * -(-14 // world_size)  # with mirror images, and `run_on` plays twice
    pair_set = load_pair_set(path)
    embeddings = sum(embed_images(quarters, pair_set, mirrors=(False, True)))
    scores = cosines(embeddings[0::2], embeddings[1::2], path)
    assert found["accuracy"] == kfold_accuracy(scores, pair_set.is_same, 10).mean


def test_an_image_that_does_not_decode_is_named_by_its_place_in_the_pack(tmp_path, pack):
    images = list(read_pair_pack(pack).images)
    images[3] = images[2]  # so that places among the distinct images are other ones
    images[50] = b"no image"
    path = tmp_path / "broken.bin"
    write_pair_pack(path, images, read_pair_pack(pack).is_same)
    with pytest.raises(DataError, match=r"broken\.bin: image 50 \(pair 25\): its .* bytes do not decode"):
        PairSetValidator(path)(quarters)


def test_only_measurable_fars_are_named(tmp_path):
    pack = make_pack(tmp_path, num_pairs=200)  # 100 impostor pairs
    found = PairSetValidator(pack, fars=(0.1, 0.01, 0.001))(quarters)
    assert {key for key in found if key.startswith("tar_at_far")} == {"tar_at_far_0.1", "tar_at_far_0.01"}


def test_has_the_name_of_its_pack_or_another(pack):
    assert PairSetValidator(pack).name == "pairs"
    assert PairSetValidator(pack, name="lfw").name == "lfw"


def test_a_bad_pack_stops_the_run_before_it_starts(tmp_path, pack):
    path = tmp_path / "genuine_only.bin"
    write_pair_pack(path, read_pair_pack(pack).images, np.ones(40, bool))
    with pytest.raises(DataError, match="all 40 pairs are genuine"):
        PairSetValidator(path)


def test_a_pack_with_its_genuine_pairs_first_is_measured_in_balanced_folds(tmp_path, pack, capsys):
    content, path = read_pair_pack(pack), tmp_path / "sorted.bin"
    order = np.argsort(~content.is_same, kind="stable")
    images = [content.images[2 * pair + side] for pair in order.tolist() for side in (0, 1)]
    write_pair_pack(path, images, content.is_same[order])
    expected = PairSetValidator(pack)(quarters)
    assert capsys.readouterr().err == ""
    assert PairSetValidator(path)(quarters) == expected
    assert "warning: " in (said := capsys.readouterr().err) and "10 of its 10 contiguous folds" in said


def test_a_pack_with_few_genuine_pairs_has_fewer_folds(tmp_path, pack, capsys):
    path = tmp_path / "few.bin"
    write_pair_pack(path, read_pair_pack(pack).images, np.arange(40) < 5)
    found = PairSetValidator(path)(quarters)
    assert 0 <= found["accuracy"] <= 1
    assert "5 folds are used instead of 10" in capsys.readouterr().err
