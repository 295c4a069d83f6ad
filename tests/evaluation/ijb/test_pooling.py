"""Tests pooling against loops over faces, under every switch, and what must not change its result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ijb import pooling as module
from evaluation.ijb.pooling import (
    PRESETS,
    Faces,
    Pooling,
    UselessEmbeddingsError,
    all_poolings,
    notes_on_norms,
    pool_templates,
    with_switches,
)
from evaluation.ijb.protocol import load_protocol
from evaluation.sets.embedding_rows import NpyRows
from facekd.errors import DataError, InputError
from tests.evaluation.ijb_layout import Layout, make_layout, naive_templates


def pool(layout: Layout, root, poolings, dtype=np.float32):
    layout.write(root)
    np.save(root / "embeddings.npy", np.load(root / "embeddings.npy").astype(dtype))
    protocol = load_protocol(root, use_cache=False)
    rows = NpyRows(root / "embeddings.npy", holds_flipped=True, num_rows=protocol.num_listed)
    images = protocol.face_images
    faces = Faces(images, protocol.face_templates, protocol.face_media, protocol.detection_scores[images])
    return protocol.template_ids, pool_templates(rows, faces, protocol.template_ids, poolings)


@pytest.mark.parametrize("rows_at_once", [1, 5, 1024])
def test_equals_loops_over_faces_under_every_switch(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(module, "ROWS_CHUNK", rows_at_once)
    monkeypatch.setattr(module, "READ_CHUNK", 3)
    layout = make_layout(1)
    layout.point_order = np.random.default_rng(0).permutation(len(layout.names)).tolist()
    poolings = [*all_poolings(True), PRESETS["magface"]]
    assert len(set(poolings)) == 9
    ids, pooled = pool(layout, tmp_path, poolings)
    for pooling, found in zip(poolings, pooled, strict=True):
        switches = (pooling.keep_norm, pooling.weight_by_detection_score, pooling.flip_augment, pooling.normalize_media)
        naive = naive_templates(layout, *switches)
        np.testing.assert_allclose(found, [naive[int(template)] for template in ids], atol=1e-12)


def test_scale_of_embeddings_counts_only_where_norms_are_kept(tmp_path):
    layout, scaled = make_layout(2), make_layout(2)
    factors = np.random.default_rng(0).uniform(0.1, 10, (len(layout.names), 1)).astype(np.float32)
    scaled.plain, scaled.mirrored = layout.plain * factors, layout.mirrored * factors
    poolings = [Pooling(keep_norm=False), Pooling(keep_norm=True)]
    without, kept = pool(layout, tmp_path / "a", poolings)[1]
    scaled_without, scaled_kept = pool(scaled, tmp_path / "b", poolings)[1]
    np.testing.assert_allclose(scaled_without, without, atol=1e-6)
    assert np.abs(scaled_kept - kept).max() > 1e-2


@pytest.mark.parametrize("highest", [10**9, 0, "as many above 0 as below"])
def test_the_names_of_media_and_the_order_of_faces_do_not_matter(tmp_path, highest):
    layout, other = make_layout(3), make_layout(3)
    if not isinstance(highest, int):
        highest = (min(layout.media) + max(layout.media)) // 2
    other.media = [highest - medium for medium in layout.media]
    order = np.random.default_rng(0).permutation(len(layout.names))
    for name in ("names", "templates", "media", "scores"):
        setattr(other, name, [getattr(other, name)[i] for i in order])
    for name in ("landmarks", "plain", "mirrored"):
        setattr(other, name, getattr(other, name)[order])
    first, second = pool(layout, tmp_path / "a", [Pooling()]), pool(other, tmp_path / "b", [Pooling()])
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[1][0], second[1][0], atol=1e-12)


def test_adaface_is_the_sum_of_both_sides_and_presets_differ():
    assert PRESETS["adaface"] == Pooling(keep_norm=True, weight_by_detection_score=False, flip_augment=True)
    assert len({pooling.name for pooling in PRESETS.values()}) == len(PRESETS)


def test_a_switch_that_is_not_named_stays_as_the_preset_has_it():
    base = Pooling(keep_norm=True, weight_by_detection_score=False, flip_augment=True)
    assert with_switches(base, None, None, None) == base
    assert with_switches(base, False, None, None) == Pooling(False, False, True)
    assert with_switches(base, None, True, False) == Pooling(True, True, False)


@pytest.mark.parametrize("number", [1, 7])
def test_norms_that_are_kept_are_told_to_be_all_alike(tmp_path, number):
    unit = np.eye(8, dtype=np.float32)[np.arange(number)]
    last_is_longer = unit * np.where(np.arange(number) == number - 1, 1.5, 1.0).astype(np.float32)[:, None]
    images = np.arange(number)
    for content, is_told in ((unit, True), (last_is_longer, False)):
        np.save(tmp_path / "plain.npy", content)
        rows = NpyRows(tmp_path / "plain.npy")
        assert len(notes_on_norms(rows, images, [PRESETS["adaface"], Pooling(True, False, False)])) == 2 * is_told
        assert notes_on_norms(rows, images, [Pooling(keep_norm=False)]) == []


def test_names_and_texts_say_each_switch():
    assert PRESETS["insightface"].name == "norm+detector+flip"
    assert PRESETS["insightface"].text == (
        "face = f(x) + f(mirrored x), norm kept, times detector score; template = sum over media of means over faces; "
        "cosine"
    )
    plain = Pooling(False, False, False, normalize_media=True)
    assert plain.name == "nonorm+nodetector+noflip+mediaunit"
    assert plain.text == (
        "face = f(x), norm removed, no detector score; template = sum over media of unit means over faces; cosine"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("side", ["plain", "mirrored"])
def test_useless_embeddings_are_named_by_row(tmp_path, value, side):
    layout = make_layout(4)
    getattr(layout, side)[[3, 7]] = value
    message = "2 embeddings are all zeros or not finite, the first in row 3"
    with pytest.raises(UselessEmbeddingsError, match=message) as raised:
        pool(layout, tmp_path, [Pooling()])
    assert raised.value.images.tolist() == [3, 7]


def test_half_precision_that_overflowed_is_noticed(tmp_path):
    layout = make_layout(5)
    layout.plain[2] *= 1e6
    with np.errstate(over="ignore"), pytest.raises(UselessEmbeddingsError, match=r"1 embedding is .* row 2"):
        pool(layout, tmp_path, [Pooling()], np.float16)


@settings(max_examples=20)
@given(exponents=st.lists(st.integers(-30, 13), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_half_precision_gives_the_exact_templates_down_to_denormals_or_names_the_rows(
    exponents: list[int], seed: int
) -> None:
    """The same float16 values in loops of float64 are the truth; rows of zeros or infinities are told."""
    layout = make_layout(seed)
    scales = np.resize(2.0 ** np.array(exponents), len(layout.names))[:, None]
    with np.errstate(over="ignore", under="ignore"):
        plain, mirrored = ((side * scales).astype(np.float16) for side in (layout.plain, layout.mirrored))
    layout.plain, layout.mirrored = plain.astype(np.float64), mirrored.astype(np.float64)
    useless = [~side.any(1) | ~np.isfinite(side).all(1) for side in (layout.plain, layout.mirrored)]
    with tempfile.TemporaryDirectory() as root:
        if (useless[0] | useless[1]).any():
            with np.errstate(over="ignore"), pytest.raises(UselessEmbeddingsError) as raised:
                pool(layout, Path(root), [Pooling()], np.float16)
            assert raised.value.images.tolist() == np.flatnonzero(useless[0] | useless[1]).tolist()
            return
        ids, (found,) = pool(layout, Path(root), [Pooling()], np.float16)
    naive = naive_templates(layout, True, True, True)
    np.testing.assert_allclose(found, [naive[int(template)] for template in ids], atol=1e-12)


def test_a_template_without_direction_is_named(tmp_path):
    layout = make_layout(6)
    layout.scores = [0.0 if template == layout.templates[0] else 1.0 for template in layout.templates]
    with pytest.raises(InputError, match=f"template {layout.templates[0]}.*detector score 0"):
        pool(layout, tmp_path, [Pooling()])


def test_a_template_without_faces_is_nan_and_not_a_vector_that_scores_0(tmp_path):
    np.save(tmp_path / "plain.npy", np.array([[3, 4], [0, 2]], np.float32))
    faces = Faces(np.arange(2), np.array([0, 2]), np.arange(2), np.ones(2))
    poolings = [Pooling(flip_augment=False), Pooling(flip_augment=False, normalize_media=True)]
    for templates in pool_templates(NpyRows(tmp_path / "plain.npy"), faces, np.array([10, 11, 12]), poolings):
        np.testing.assert_allclose(templates, [[0.6, 0.8], [np.nan, np.nan], [0, 1]])


def test_flip_without_mirrored_embeddings_is_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.ones((2, 4), np.float32))
    faces = Faces(np.arange(2), np.arange(2), np.arange(2), np.ones(2))
    with pytest.raises(InputError, match="--no-flip-augment"):
        pool_templates(NpyRows(tmp_path / "plain.npy"), faces, np.arange(2), [Pooling()])


def test_halves_that_agree_are_mirror_images(tmp_path, capsys):
    generator = np.random.default_rng(0)
    one = generator.standard_normal((500, 32)).astype(np.float32)
    np.save(
        tmp_path / "both.npy", np.hstack([one, one + 0.3 * generator.standard_normal((500, 32))]).astype(np.float32)
    )
    np.save(tmp_path / "one.npy", one)
    both, plain = (NpyRows(tmp_path / name, holds_flipped=None) for name in ("both.npy", "one.npy"))
    assert (both.has_flipped, both.embedding_size) == (True, 32)
    assert (plain.has_flipped, plain.embedding_size) == (False, 32)
    assert "taken as an image and its mirror image, 32 values each" in capsys.readouterr().err
    np.save(tmp_path / "unclear.npy", np.hstack([one, 0.25 * one + generator.standard_normal((500, 32))]))
    with pytest.raises(DataError, match="--embeddings-flipped or --no-embeddings-flipped"):
        NpyRows(tmp_path / "unclear.npy", holds_flipped=None)


def embeddings_of(kind: str, generator: np.random.Generator) -> np.ndarray:
    """Rows (1200, 128) of 200 people: one embedding, or two of 64 values."""
    people = np.repeat(generator.standard_normal((200, 128)), 6, axis=0)
    one = people + 0.7 * generator.standard_normal(people.shape)
    mirrored = one[:, :64] + 0.5 * generator.standard_normal((1200, 64))
    return {
        "one": one,
        "one, never negative": np.maximum(one, 0),
        "one, with a large common mean": one + 10 * generator.standard_normal(128),
        "one, with a constant offset": one + 50,
        "mirrored": np.hstack([one[:, :64], mirrored]),
        "mirrored, never negative": np.maximum(np.hstack([one[:, :64], mirrored]), 0),
        "mirrored, with a constant offset": np.hstack([one[:, :64], mirrored]) + 50,
        "mirrored, identical": np.hstack([one[:, :64], one[:, :64]]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("one", "one, never negative", "one, with a large common mean", "one, with a constant offset"),
        *("mirrored", "mirrored, never negative", "mirrored, with a constant offset", "mirrored, identical"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_halves_are_told_whatever_all_embeddings_have_in_common(tmp_path, kind, seed):
    np.save(tmp_path / "x.npy", embeddings_of(kind, np.random.default_rng(seed)).astype(np.float32))
    rows = NpyRows(tmp_path / "x.npy", holds_flipped=None)
    assert rows.has_flipped is kind.startswith("mirrored")


@pytest.mark.parametrize("rows", [np.ones((50, 8)), np.ones((1, 8))])
def test_halves_without_a_control_are_asked_about(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(DataError, match=r"it cannot be told .*--embeddings-flipped or --no-embeddings-flipped"):
        NpyRows(tmp_path / "x.npy", holds_flipped=None)
    assert NpyRows(tmp_path / "x.npy", holds_flipped=True).embedding_size == 4


def test_column_major_files_are_read_too(tmp_path):
    values = np.random.default_rng(0).standard_normal((7, 4))
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    np.testing.assert_array_equal(NpyRows(tmp_path / "f.npy").read(2, 5)[0], values[2:5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 4), np.int64), "expected real numbers"),
        (np.zeros(3), "expected real numbers"),
        (np.zeros((2, 4)), "holds 2 rows; expected 3, one for each image that the set lists"),
        (b"no numbers", "cannot be read as a .npy file of numbers"),
    ],
)
def test_a_file_that_holds_no_such_embeddings_is_refused(tmp_path, content, message):
    path = tmp_path / "e.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=message):
        NpyRows(path, num_rows=3)
