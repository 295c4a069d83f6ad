"""Counted things: one is single, all else is several."""

from __future__ import annotations

import pytest

from facekd.utils.wording import agreeing, counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2000, ("impostor pair",), "2,000 impostor pairs"),
        (1, ("person",), "1 person"),
        (2, ("person",), "2 people"),
        (3, ("identity",), "3 identities"),
        (2, ("key",), "2 keys"),
        (2, ("class",), "2 classes"),
        (2, ("batch",), "2 batches"),
        (2, ("index",), "2 indexes"),
        (1, ("pair of people",), "1 pair of people"),
        (2, ("pair of identities",), "2 pairs of identities"),
        (2, ("other person of a set",), "2 other people of a set"),
        (1, ("image has", "images have"), "1 image has"),
        (4, ("image has", "images have"), "4 images have"),
        (None, ("class",), "an unknown number of classes"),
    ],
)
def test_one_is_single_and_all_else_is_several(count: int | None, words: tuple[str, ...], expected: str) -> None:
    assert counted(count, *words) == expected


def test_a_number_that_is_written_in_its_own_way_and_a_verb_agree() -> None:
    texts = [f"{epochs:.3g} {agreeing(epochs, 'epoch')} {agreeing(epochs, 'is', 'are')}" for epochs in (1.0, 1.5, 0, 2)]
    assert texts == ["1 epoch is", "1.5 epochs are", "0 epochs are", "2 epochs are"]
