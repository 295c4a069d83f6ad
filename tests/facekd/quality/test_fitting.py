"""A quality head learns a quality that was planted, and refuses what it cannot learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from facekd.errors import InputError
from facekd.quality.fitting import fit_quality_head, rank_correlation
from facekd.quality.head import QualityHead
from facekd.quality.targets import make_targets

SIZE = 24


def noisy_people(sign: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of 60 people x 20 images with noise of a known level, which one sign gives away; labels; the level."""
    draws = np.random.default_rng(0)
    labels, level = np.arange(60).repeat(20), draws.uniform(0, 1, 1200)
    centres, noise = draws.normal(size=(60, SIZE)), draws.normal(size=(1200, SIZE))
    if sign == "length":
        rows = centres[labels] + level[:, None] * noise
        length = 20 - 10 * level + 0.2 * draws.normal(size=1200)
    else:  # images without detail resemble each other
        common = np.repeat([2.5, 0], SIZE // 2)
        rows = (1 - 0.7 * level)[:, None] * centres[labels] + 0.7 * level[:, None] * common + 0.15 * noise
        length = np.full(1200, 9)
    rows *= (length / np.linalg.norm(rows, axis=1))[:, None]
    return rows.astype(np.float32), labels, level


@pytest.mark.parametrize(("name", "sign"), [("cr", "length"), ("sdd", "length"), ("sdd", "direction")])
def test_it_learns_a_planted_quality(name: str, sign: str) -> None:
    rows, labels, level = noisy_people(sign)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    targets = make_targets(name, lambda images: units[images], labels, 2000)
    held_out = labels[targets.images] % 6 == 0
    fitted = fit_quality_head(rows[targets.images], targets.scaled, held_out, seed=3, steps=400)
    found = fitted.head(torch.from_numpy(rows)).numpy()
    assert found.shape == (1200,) and (found > 0).all() and (found < 1).all()
    strangers = labels % 6 == 0
    assert spearmanr(found[strangers], -level[strangers]).statistic > 0.9
    # What is reported is about the people who were not learnt from.
    expected = spearmanr(found[targets.images][held_out], targets.scaled[held_out]).statistic
    assert fitted.rank_correlation == pytest.approx(expected, abs=1e-3)
    if sign == "length":
        lengths = np.linalg.norm(rows[targets.images][held_out], axis=1)
        expected = spearmanr(lengths, targets.scaled[held_out]).statistic
        assert fitted.rank_correlation_of_length == pytest.approx(expected, abs=1e-3)
    assert fitted.num_held_out == held_out.sum() and fitted.num_learnt_from == (~held_out).sum()


def test_the_same_seed_gives_the_same_head() -> None:
    rows, labels, level = noisy_people("length")
    fitted = [fit_quality_head(rows, 1 - level, labels % 5 == 0, seed, steps=20) for seed in (1, 1, 2)]
    first, again, other = (torch.cat([value.flatten() for value in each.head.state_dict().values()]) for each in fitted)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_never_changes_has_no_rank_correlation() -> None:
    rising = np.arange(5.0)
    assert rank_correlation(rising, -(rising**3)) == pytest.approx(-1)
    assert rank_correlation(rising, np.ones(5)) is None and rank_correlation(rising[:2], rising[:2]) is None


def test_an_embedding_of_zeros_has_a_quality() -> None:
    assert torch.isfinite(QualityHead(4)(torch.zeros(2, 4))).all()


@pytest.mark.parametrize(
    ("rows", "targets", "held_out", "message"),
    [
        (np.full((4, 2), np.nan), np.ones(4), [True, False] * 2, "not finite"),
        (np.ones((4, 2)), np.array([0, 1, np.nan, 0]), [True, False] * 2, "not finite"),
        (np.ones((4, 2)), np.ones(3), [True, False] * 2, "have shapes"),
        (np.ones((4, 2)), np.ones(4), [True] * 4, "must be learnt from"),
        (np.ones((4, 2)), np.ones(4), [False] * 4, "others held out"),
    ],
)
def test_it_refuses(rows: np.ndarray, targets: np.ndarray, held_out: list[bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_quality_head(rows.astype(np.float32), targets, np.array(held_out))
