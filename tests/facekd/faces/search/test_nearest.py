"""The nearest faces of a gallery: what a loop over all pairs finds, with ties, people, and whatever the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.faces.search import nearest
from facekd.faces.search.nearest import find_nearest


def naive(probes: np.ndarray, gallery: np.ndarray, count: int, people: list[str]) -> list[list[tuple[int, float]]]:
    """The nearest faces by a loop: all cosines, sorted, and of each person the first."""
    found = []
    for probe in probes.astype(float):
        cosines = [float(probe @ face / np.sqrt((probe @ probe) * (face @ face))) for face in gallery.astype(float)]
        ranked = sorted(range(len(gallery)), key=lambda row: (-round(cosines[row], 12), row))
        met: set[str] = set()
        best = []
        for row in ranked:
            if people[row] not in met:
                best.append((row, cosines[row]))
            met |= {people[row]} - {""}
        found.append(best[:count])
    return found


def faces(generator: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Unit rows with few directions, so that many cosines are equal."""
    rows = generator.integers(-1, 2, (count, size)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=60)
@given(st.data())
def test_the_nearest_are_those_of_a_loop_in_any_blocks(data: st.DataObject) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size, num_faces, num_probes = (data.draw(st.integers(1, most)) for most in (5, 40, 6))
    gallery, probes = faces(generator, num_faces, size), faces(generator, num_probes, size)
    names = np.array(["", "a", "b", "c", "d"])[generator.integers(0, data.draw(st.integers(1, 5)), num_faces)]
    people = data.draw(st.sampled_from([None, names, np.sort(names)]))
    count = data.draw(st.integers(1, 50))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROBES_CHUNK", "GALLERY_CHUNK", "PAIRS_CHUNK"):
            patch.setattr(nearest, name, data.draw(st.integers(1, 50)))
        found = find_nearest(probes, gallery, count, people)
    expected = naive(probes, gallery, count, [""] * num_faces if people is None else people.tolist())
    assert found.rows.tolist() == [[row for row, _ in one] for one in expected]
    assert np.allclose(found.cosines, [[cosine for _, cosine in one] for one in expected], atol=1e-12)


def test_cosines_are_exact_and_the_same_for_equal_faces_in_any_block() -> None:
    generator = np.random.default_rng(0)
    gallery = generator.normal(size=(3000, 64)).astype(np.float32)
    gallery[[7, 1500, 2999]] = gallery[7]
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    found = find_nearest(gallery[[7, 20]], gallery, 3)
    assert found.rows[0].tolist() == [7, 1500, 2999] and found.cosines[0].tolist() == [1.0, 1.0, 1.0]
    wide = gallery.astype(np.longdouble)
    exact = wide @ wide[20] / np.sqrt((wide**2).sum(axis=1) * (wide[20] ** 2).sum())
    assert found.rows[1].tolist() == np.argsort(-exact)[:3].tolist()
    assert np.abs(found.cosines[1] - exact[found.rows[1]]).max() < 1e-15


def test_faces_that_are_all_alike_are_listed_in_their_order() -> None:
    gallery = np.tile(np.float32(0.125), (20_000, 64))
    gallery[15_000] = -gallery[15_000]
    probes = gallery[:3]
    assert find_nearest(probes, gallery, 4).rows.tolist() == [[0, 1, 2, 3]] * 3
    people = np.array(["a", "b"] * 5_000 + ["b", "c"] * 5_000)
    found = find_nearest(probes, gallery, 4, people)
    assert found.rows.tolist() == [[0, 1, 10_001]] * 3 and (found.cosines == 1).all()
    people[15_000] = "d"
    assert find_nearest(probes, gallery, 4, people).rows.tolist() == [[0, 1, 10_001, 15_000]] * 3


def test_no_probes_find_nothing_and_an_empty_gallery_is_refused() -> None:
    gallery = np.eye(3, dtype=np.float32)
    assert find_nearest(gallery[:0], gallery, 2).rows.shape == (0, 2)
    for probes, faces_there, count in [(gallery, gallery[:0], 1), (gallery[:, :2], gallery, 1), (gallery, gallery, 0)]:
        with pytest.raises(InputError, match="cannot find"):
            find_nearest(probes, faces_there, count)
