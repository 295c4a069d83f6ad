"""Tests the search by blocks against loops over probes and entries, with ties and blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import InputError
from facekd.verification.search import block_search
from facekd.verification.search.block_search import HeldRows, Others, find_mates, rank_mates, search
from facekd.verification.search.identification import NEVER_FIRST
from facekd.verification.search.retrieval import average_precisions


def unit(generator, count, size, coarse):
    rows = generator.standard_normal((count, size))
    if coarse:  # few distinct directions, and so many equal scores
        rows = np.sign(rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cosine(first, second):
    return float(np.clip(np.einsum("d,d->", first, second), -1, 1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), coarse=st.booleans(), with_distractors=st.booleans())
def test_equals_loops(seed, coarse, with_distractors):
    generator = np.random.default_rng(seed)
    num_gallery, num_probes, size = generator.integers(1, 20), generator.integers(1, 30), 4
    gallery, probes = unit(generator, num_gallery, size, coarse), unit(generator, num_probes, size, coarse)
    of_entry, of_probe = generator.integers(0, 6, num_gallery), generator.integers(0, 9, num_probes)
    distractors = unit(generator, generator.integers(1, 20) if with_distractors else 0, size, coarse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_search, "PROBES_CHUNK", int(generator.integers(1, 8)))
        patch.setattr(block_search, "OTHERS_CHUNK", int(generator.integers(1, 8)))
        patch.setattr(block_search, "CELLS_CHUNK", int(generator.integers(1, 40)))
        mates = find_mates(probes, of_probe, gallery, of_entry)
        before, best = rank_mates(
            probes, of_probe, mates, [Others(HeldRows(gallery), of_entry), Others(HeldRows(distractors))]
        )
        whole = search(probes, of_probe, gallery, of_entry, HeldRows(distractors) if with_distractors else None)
    # Every probe, every entry.
    expected, alone, ranks = [], [], []
    for probe, subject in zip(probes, of_probe, strict=True):
        others = [cosine(probe, row) for row, who in zip(gallery, of_entry, strict=True) if who != subject]
        others += [cosine(probe, row) for row in distractors]
        own = [cosine(probe, row) for row, who in zip(gallery, of_entry, strict=True) if who == subject]
        expected += [sum(other >= score for other in others) for score in own]
        if own:
            ranks.append(1 + sum(other >= max(own) for other in others))
            alone.append(NEVER_FIRST)
        else:
            alone.append(max(others, default=NEVER_FIRST))
    assert before.tolist() == expected
    assert best.tolist() == alone
    assert whole.mate_ranks.tolist() == ranks
    assert whole.best_impostor_scores.tolist() == [score for score in alone if score != NEVER_FIRST]
    assert whole.num_gallery == num_gallery + len(distractors)


def test_ranks_do_not_depend_on_float32():
    generator = np.random.default_rng(0)
    gallery, probes = unit(generator, 300, 32, False), unit(generator, 200, 32, False)
    of_entry, of_probe = generator.integers(0, 120, 300), generator.integers(0, 160, 200)
    # Others a hair above and below a mate's score, closer than float32 can tell.
    mate = int(np.flatnonzero(of_entry == of_probe[0])[0]) if (of_entry == of_probe[0]).any() else 0
    gallery[mate], of_entry[mate] = probes[0] + 0.3 * gallery[mate], of_probe[0]
    gallery[mate] /= np.linalg.norm(gallery[mate])
    nudged = np.stack([gallery[mate] + sign * 1e-12 * probes[0] for sign in (1, -1)])
    nudged /= np.linalg.norm(nudged, axis=1, keepdims=True)
    gallery, of_entry = np.concatenate([gallery, nudged]), np.append(of_entry, [998, 999])
    found = search(probes, of_probe, gallery, of_entry)
    # The same from all cosines in float64.
    ranks, alone = [], []
    for cosines, subject in zip(np.clip(probes @ gallery.T, -1, 1), of_probe, strict=True):
        own, others = cosines[of_entry == subject], cosines[of_entry != subject]
        if len(own):
            ranks.append(1 + (others >= own.max()).sum())
        else:
            alone.append(others.max())
    assert found.mate_ranks.tolist() == ranks
    assert found.mate_ranks[0] == 2  # the one above counts, the one below does not
    np.testing.assert_allclose(found.best_impostor_scores, alone, rtol=0, atol=1e-12)


def test_nothing_to_search_is_refused():
    with pytest.raises(InputError, match="G1: 0 gallery templates and 1 probe template are left"):
        search(np.ones((1, 2)), np.zeros(1), np.zeros((0, 2)), np.zeros(0), None, "G1")
    with pytest.raises(InputError, match=r"^gallery: 1 gallery template and 0 probe templates are left"):
        search(np.zeros((0, 2)), np.zeros(0), np.ones((1, 2)), np.zeros(1))


def oxford_average_precision(is_mate):
    """Walks down a ranked list and adds trapezoids, as the tools of Oxford5k and TinyFace do."""
    recall_before, precision_before, area, hits = 0.0, 1.0, 0.0, 0
    for place, hit in enumerate(is_mate, start=1):
        hits += bool(hit)
        recall, precision = hits / sum(is_mate), hits / place
        area += (recall - recall_before) * (precision_before + precision) / 2
        recall_before, precision_before = recall, precision
    return area


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_average_precision_walks_down_the_list(seed):
    generator = np.random.default_rng(seed)
    gallery, probes = unit(generator, 30, 4, False), unit(generator, 8, 4, False)
    of_entry, of_probe = generator.integers(0, 5, 30), generator.integers(0, 7, 8)
    mates = find_mates(probes, of_probe, gallery, of_entry)
    before, _ = rank_mates(probes, of_probe, mates, [Others(HeldRows(gallery), of_entry)])
    who, found = average_precisions(mates, before)
    expected = {}
    for number, probe in enumerate(probes):
        falling = np.argsort([-cosine(probe, row) for row in gallery], kind="stable")
        if (of_entry == of_probe[number]).any():
            expected[number] = oxford_average_precision((of_entry == of_probe[number])[falling].tolist())
    assert who.tolist() == list(expected)
    assert found == pytest.approx(list(expected.values()), abs=1e-12)
