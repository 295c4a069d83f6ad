"""Tests metrics against scikit-learn, scipy, naive loops and properties that must hold for any scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn import metrics
from sklearn.model_selection import KFold

from facekd.errors import FacekdError, InputError
from facekd.verification import (
    area_under_roc,
    balanced_folds,
    equal_error_point,
    equal_error_rate,
    far_threshold,
    fold_indices,
    kfold_accuracy,
    num_allowed_false_accepts,
    roc_curve,
    tar_at_far,
    tar_curve,
    wilson_interval,
)

# Few distinct values make many ties, within a kind and across the two.
tied = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-3, 3).map(lambda value: value / 4))
single = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32))
both_kinds = st.one_of(st.tuples(tied, tied), st.tuples(single, single))
quick = settings(max_examples=80)


def overlapping(seed: int, num_genuine: int = 400, num_impostor: int = 700) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(1.5, 1, num_genuine), generator.normal(0, 1, num_impostor)


def labelled(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([1, 0], [genuine.size, impostor.size]), np.concatenate([genuine, impostor])


def naive_largest_tar(genuine: np.ndarray, impostor: np.ndarray, allowed: int) -> float:
    """Try every threshold that can make a difference, and one above all."""
    candidates = [*genuine.tolist(), *impostor.tolist(), math.inf]
    tars = [
        sum(score >= threshold for score in genuine.tolist()) / len(genuine)
        for threshold in candidates
        if sum(score >= threshold for score in impostor.tolist()) <= allowed
    ]
    return max(tars)


class TestTarCurve:
    @quick
    @given(both_kinds, st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
    def test_it_equals_tar_at_far_wherever_a_far_is_measurable(self, scores, fars):
        genuine, impostor = scores
        fars = np.array([*fars, 1.0, 1 / impostor.size])
        above_all = float((genuine > impostor.max()).mean())
        expected = [above_all if point.tar is None else point.tar for point in tar_at_far(genuine, impostor, fars)]
        np.testing.assert_array_equal(tar_curve(genuine, impostor, fars), expected)

    def test_it_takes_the_steps_of_the_roc(self):
        genuine, impostor = np.array([0.9, 0.8, 0.3]), np.array([0.85, 0.5, 0.4, 0.1])
        # No impostor: above 0.85. One of four: above 0.5. All: everything.
        found = tar_curve(genuine, impostor, np.array([0.2, 0.25, 0.3, 1]))
        assert found == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])


class TestTarAtFar:
    @quick
    @given(both_kinds, st.integers(1, 40))
    def test_is_the_largest_tar_whose_far_does_not_exceed_the_target(self, scores_of_both, allowed):
        genuine, impostor = scores_of_both
        allowed = min(allowed, impostor.size)
        [point] = tar_at_far(genuine, impostor, [allowed / impostor.size])
        assert point.tar == pytest.approx(naive_largest_tar(genuine, impostor, allowed), abs=1e-12)
        assert point.false_accepts <= allowed

    @quick
    @given(both_kinds, st.sampled_from(["exact", "insightface"]))
    def test_the_threshold_reproduces_the_numbers(self, scores_of_both, rule):
        genuine, impostor = scores_of_both
        for point in tar_at_far(genuine, impostor, [0.05, 0.2, 0.5, 1.0], rule):
            if point.tar is None:
                continue
            # A Python float beside a float32 array is rounded to float32: the threshold must survive that.
            assert point.tar == np.mean(genuine >= point.threshold)
            assert point.false_accepts == np.sum(impostor >= point.threshold)
            assert point.achieved_far == point.false_accepts / impostor.size
            assert math.isfinite(point.threshold)

    @pytest.mark.parametrize("seed", range(3))
    def test_equals_scikit_learn_at_every_reachable_point(self, seed):
        genuine, impostor = overlapping(seed)
        is_same, scores = labelled(genuine, impostor)
        far, tar, _ = metrics.roc_curve(is_same, scores, drop_intermediate=False)
        reachable = np.unique(far[far > 0])
        best = [tar[far == value].max() for value in reachable]
        assert [point.tar for point in tar_at_far(genuine, impostor, reachable)] == pytest.approx(best, abs=1e-12)

    @pytest.mark.parametrize(("far", "num_impostor", "allowed"), [(1e-3, 3000, 3), (0.07, 100, 7), (0.29, 100, 29)])
    def test_a_decimal_far_loses_no_false_accept_to_rounding(self, far, num_impostor, allowed):
        [point] = tar_at_far([0.5], np.linspace(0, 1, num_impostor, dtype=np.float32), far)
        assert point.false_accepts == allowed

    def test_allowed_false_accepts_at_the_size_of_ijb_c(self):
        assert num_allowed_false_accepts(1e-6, 15_638_932) == 15
        assert num_allowed_false_accepts(1e-4, 8_000_000) == 800

    def test_kinds_of_different_precision_are_compared_as_float64(self):
        [point] = tar_at_far(np.array([0.1], np.float32), np.array([0.1, 0.0]), 0.5)
        assert (point.tar, point.false_accepts) == (1, 1)  # 0.1 as float32 lies above 0.1

    def test_a_far_below_one_false_accept_is_not_measurable_by_either_rule(self):
        genuine, impostor = overlapping(0)
        for rule in ("exact", "insightface"):
            points = tar_at_far(genuine, impostor, [1e-3, 1e-2], rule)
            assert points[0].tar is points[0].threshold is points[0].false_accepts is points[0].ci95 is None
            assert points[0].num_impostor == 700
            assert "0.7 false accepts" in points[0].reason and "1,000 comparisons are needed" in points[0].reason
            assert points[1].tar is not None and points[1].reason is None

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("decimals", [1, 2, 9])
    def test_the_insightface_rule_does_what_the_published_ijb_scripts_do(self, seed, decimals):
        genuine, impostor = (np.round(scores, decimals) for scores in overlapping(seed, 150, 230))
        is_same, scores = labelled(genuine, impostor)
        fars = [0.005, 0.01, 0.033, 0.1, 0.5]
        # Restated: the nearest point of scikit-learn's thinned ROC, the most lenient of equally near ones.
        far, tar, _ = metrics.roc_curve(is_same, scores)
        expected = [tar[::-1][np.argmin(np.abs(far[::-1] - target))] for target in fars]
        found = [point.tar for point in tar_at_far(genuine, impostor, fars, rule="insightface")]
        assert found == pytest.approx(expected, abs=1e-12)

    def test_the_insightface_rule_may_exceed_the_target_where_the_exact_rule_never_does(self):
        genuine = np.array([0.9, 0.7, 0.5, 0.3])
        impostor = np.array([0.8, 0.6, 0.4, 0.2])  # 0.4 x 4 = 1.6 false accepts allowed
        assert tar_at_far(genuine, impostor, 0.4, "exact")[0].false_accepts == 1
        assert tar_at_far(genuine, impostor, 0.4, "insightface")[0].achieved_far > 0.4

    def test_separable_scores_reach_one_everywhere(self):
        points = tar_at_far([0.8, 0.9], np.linspace(0, 0.5, 1000), [1e-3, 1e-2])
        assert [point.tar for point in points] == [1, 1]
        assert points[0].ci95[0] < 1 == points[0].ci95[1]

    def test_a_block_of_tied_impostors_is_never_split(self):
        # 2 false accepts allowed, but the best three impostors score alike: none can be let in.
        [point] = tar_at_far([0.5, 0.6, 0.7], [0.6, 0.6, 0.6, 0.1], 0.5)
        assert (point.false_accepts, point.tar) == (0, pytest.approx(1 / 3))

    def test_tar_does_not_fall_as_the_far_grows(self):
        genuine, impostor = overlapping(4)
        tars = [point.tar for point in tar_at_far(genuine, impostor, np.geomspace(2e-3, 1, 50))]
        assert tars == sorted(tars) and tars[-1] == 1


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "trials"),
        [(0, 1), (0, 10), (0, 600), (1, 3), (3, 10), (7, 10), (10, 10), (594, 600), (600, 600), (9421, 10_000)],
    )
    def test_bounds_are_the_shares_that_a_score_test_at_5_percent_just_admits(self, successes, trials):
        low, high = wilson_interval(successes, trials)
        share = successes / trials
        assert low <= share <= high
        for bound in (low, high):
            if bound not in (0, 1):
                z = abs(share - bound) / math.sqrt(bound * (1 - bound) / trials)
                assert z == pytest.approx(norm.ppf(0.975), abs=1e-7)

    def test_ends_at_exactly_zero_and_one(self):
        for trials in range(1, 200):
            assert (wilson_interval(0, trials)[0], wilson_interval(trials, trials)[1]) == (0, 1)

    @pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 4)])
    def test_refuses_what_is_no_proportion(self, successes, trials):
        with pytest.raises(InputError, match="0 <= successes <= trials"):
            wilson_interval(successes, trials)


class TestRocCurve:
    @quick
    @given(both_kinds)
    def test_equals_scikit_learn_point_by_point(self, scores_of_both):
        genuine, impostor = scores_of_both
        is_same, scores = labelled(genuine, impostor)
        far, tar, threshold = metrics.roc_curve(is_same, scores, drop_intermediate=False)
        curve = roc_curve(genuine, impostor)
        np.testing.assert_allclose(curve.far, far, atol=1e-12)
        np.testing.assert_allclose(curve.tar, tar, atol=1e-12)
        np.testing.assert_array_equal(curve.threshold[1:], threshold[1:])
        assert curve.threshold[0] > scores.max()  # where scikit-learn says infinity, which JSON cannot


class TestEqualErrorRate:
    @quick
    @given(both_kinds)
    def test_equals_the_usual_root_of_the_interpolated_roc(self, scores_of_both):
        genuine, impostor = scores_of_both
        is_same, scores = labelled(genuine, impostor)
        far, tar, _ = metrics.roc_curve(is_same, scores, drop_intermediate=False)
        # By the position along the curve: as a function of FAR alone the ROC has vertical stretches.
        along = np.arange(len(far))
        excess = interp1d(along, far - (1 - tar))
        root = brentq(excess, 0, along[-1], xtol=1e-13)
        assert equal_error_rate(genuine, impostor) == pytest.approx(float(interp1d(along, far)(root)), abs=1e-9)

    @quick
    @given(both_kinds)
    def test_no_threshold_brings_the_two_rates_nearer(self, scores_of_both):
        genuine, impostor = scores_of_both
        point = equal_error_point(genuine, impostor)
        assert point.far == pytest.approx(np.mean(impostor >= point.threshold), abs=1e-12)
        assert point.frr == pytest.approx(np.mean(genuine < point.threshold), abs=1e-12)
        candidates = np.append(np.concatenate([genuine, impostor]), np.inf)
        gaps = [abs(np.mean(impostor >= value) - np.mean(genuine < value)) for value in candidates]
        assert abs(point.far - point.frr) == pytest.approx(min(gaps), abs=1e-12)

    def test_separable_reversed_and_constant_scores(self):
        separable = equal_error_point([0.8, 0.9], [0.1, 0.2])
        assert (separable.eer, separable.threshold) == (0, pytest.approx(0.5))
        assert equal_error_rate([0.1, 0.2], [0.8, 0.9]) == 1
        assert equal_error_rate([0.5] * 3, [0.5] * 7) == 0.5

    def test_is_unmoved_by_an_increasing_function_and_by_order(self):
        genuine, impostor = overlapping(1)
        shuffled = np.random.default_rng(0).permutation(genuine)
        assert equal_error_rate(np.exp(shuffled), np.exp(impostor)) == equal_error_rate(genuine, impostor)

    def test_does_not_depend_on_how_many_comparisons_a_kind_has(self):
        genuine, impostor = overlapping(2)
        assert equal_error_rate(np.tile(genuine, 3), impostor) == pytest.approx(equal_error_rate(genuine, impostor))


@quick
@given(both_kinds)
def test_auc_equals_scikit_learn(scores_of_both):
    genuine, impostor = scores_of_both
    is_same, scores = labelled(genuine, impostor)
    assert area_under_roc(genuine, impostor) == pytest.approx(metrics.roc_auc_score(is_same, scores), abs=1e-12)


def naive_kfold(scores: np.ndarray, is_same: np.ndarray, fold_of: np.ndarray) -> list[tuple[float, set[float]]]:
    """For each fold: best accuracy on the others, and the accuracies that equally good thresholds give inside."""
    answers = []
    for fold in range(fold_of.max() + 1):
        others, inside = fold_of != fold, fold_of == fold
        values = sorted(set(scores[others].tolist()))
        candidates = [values[0], *((low + high) / 2 for low, high in itertools.pairwise(values)), math.inf]
        gained = [np.mean((scores[others] >= value) == is_same[others]) for value in candidates]
        best = [value for value, share in zip(candidates, gained, strict=True) if share == max(gained)]
        answers.append((max(gained), {float(np.mean((scores[inside] >= value) == is_same[inside])) for value in best}))
    return answers


class TestKFoldAccuracy:
    @quick
    @given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([1, 2, 8]))
    def test_each_threshold_is_the_most_accurate_on_the_other_folds(self, seed, folds, decimals):
        generator = np.random.default_rng(seed)
        is_same = np.tile([True, False], 30)[: int(generator.integers(4 * folds, 60))]
        scores = np.round(generator.normal(is_same * 1.2, 1), decimals)
        found = kfold_accuracy(scores, is_same, folds)
        fold_of = fold_indices(len(scores), folds)
        for fold, (best, accuracies) in enumerate(naive_kfold(scores, is_same, fold_of)):
            others = fold_of != fold
            assert np.mean((scores[others] >= found.thresholds[fold]) == is_same[others]) == pytest.approx(best)
            assert found.folds[fold] in accuracies
        assert found.mean == pytest.approx(np.mean(found.folds))
        assert found.std == pytest.approx(np.std(found.folds))

    def test_threshold_lies_midway_between_the_scores_it_separates(self):
        result = kfold_accuracy([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], 2)
        assert result.thresholds == pytest.approx((0.5, 0.5))
        assert (result.mean, result.std, result.folds) == (1, 0, (1, 1))

    @pytest.mark.parametrize(("num_best", "threshold"), [(1, 0.5), (2, 0.5), (3, 2.5), (4, 2.5), (5, 4.5), (6, 4.5)])
    def test_of_equally_accurate_thresholds_the_middle_one_is_taken_and_of_two_middles_the_lower(
        self, num_best, threshold
    ):
        # Impostors at 0, 2, 4, ..., a genuine pair above each: the thresholds 0.5, 2.5, 4.5, ... are equally accurate.
        one_fold = np.arange(2.0 * num_best)
        scores, is_same = np.tile(one_fold, 2), np.tile(one_fold % 2 == 1, 2)
        assert kfold_accuracy(scores, is_same, 2).thresholds == (threshold, threshold)

    def test_neighbouring_float32_scores_are_still_told_apart(self):
        low = np.float32(0.3)
        high = np.nextafter(low, np.float32(1))
        scores = np.array([high, low, high, low], np.float32)
        assert kfold_accuracy(scores, [1, 0, 1, 0], 2).mean == 1

    def test_a_constant_score_is_right_for_one_kind_only(self):
        assert kfold_accuracy(np.zeros(20), np.tile([True, False], 10), 5).mean == 0.5

    def test_every_pair_is_evaluated_once_by_the_fold_it_is_in(self):
        # Fold 1 is labelled the other way round: its accuracy shows that its own labels were not looked at.
        scores = np.array([0.1, 0.9, 0.9, 0.1, 0.9, 0.1])
        is_same = np.array([True, False, True, False, True, False])
        assert kfold_accuracy(scores, is_same, 3).folds == (0, 1, 1)

    @given(st.integers(2, 50), st.integers(2, 50))
    def test_folds_are_contiguous_as_scikit_learn_makes_them(self, num_pairs, folds):
        if folds > num_pairs:
            folds = num_pairs
        expected = np.empty(num_pairs, int)
        for fold, (_, inside) in enumerate(KFold(folds).split(np.zeros(num_pairs))):
            expected[inside] = fold
        np.testing.assert_array_equal(fold_indices(num_pairs, folds), expected)

    def test_folds_can_be_given_pair_by_pair(self):
        generator = np.random.default_rng(3)
        is_same = np.tile([True, False], 20)
        scores, order = generator.normal(is_same, 1), generator.permutation(40)
        fold_of = fold_indices(40, 4)
        assert kfold_accuracy(scores[order], is_same[order], fold_of[order]) == kfold_accuracy(scores, is_same, 4)

    @pytest.mark.parametrize(
        ("folds", "message"),
        [
            (1, "between 2 and the 4 pairs"),
            (5, "4 pairs there are; found 5"),
            (2.5, "number of folds"),
            ([0, 1], r"expected \(4,\)"),
            ([0, 0, 2, 2], "0 to K-1"),
            ([0, 0, 0, 0], "at least two folds"),
        ],
    )
    def test_impossible_folds_are_refused(self, folds, message):
        with pytest.raises(InputError, match=message):
            kfold_accuracy([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], folds)

    def test_folds_that_leave_one_kind_to_learn_from_are_refused(self):
        with pytest.raises(InputError, match="without fold 1 of 2 no genuine pairs remain"):
            kfold_accuracy([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], [0, 0, 1, 1])

    def test_a_number_of_folds_that_would_hold_one_kind_is_refused(self):
        is_same = np.arange(40) < 20
        with pytest.raises(InputError, match=r"10 of 10 .*fold 1 \(4 genuine, 0 impostor\).*balanced_folds"):
            kfold_accuracy(np.arange(40.0), is_same, 10)

    @pytest.mark.parametrize("folds", [2, 3, 10])
    def test_balanced_folds_do_not_depend_on_how_the_kinds_are_ordered(self, folds):
        generator = np.random.default_rng(5)
        mixed = np.tile([True, False], 300)
        scores = generator.normal(0.4 * mixed, 1)  # a weak model: about 58 % at its best threshold
        order = np.argsort(~mixed, kind="stable")  # all genuine pairs first
        expected = kfold_accuracy(scores, mixed, fold_indices(300, folds).repeat(2))
        found = kfold_accuracy(scores[order], mixed[order], balanced_folds(mixed[order], folds))
        assert found == expected and 0.5 < found.mean < 0.65
        # What contiguous folds of that order would have said, and why they are refused.
        assert kfold_accuracy(scores[order], mixed[order], fold_indices(600, 10)).mean < 0.45

    @given(st.integers(2, 12), st.integers(0, 60), st.integers(0, 60), st.randoms())
    def test_balanced_folds_share_each_kind_out_evenly(self, folds, num_genuine, num_impostor, random):
        is_same = [True] * (num_genuine + 2) + [False] * (num_impostor + 2)
        random.shuffle(is_same)
        labels = np.array(is_same)
        if folds > min(labels.sum(), (~labels).sum()):
            with pytest.raises(InputError, match="take 2 to"):
                balanced_folds(labels, folds)
            return
        fold_of = balanced_folds(labels, folds)
        for kind in (True, False):
            sizes = np.bincount(fold_of[labels == kind], minlength=folds)
            assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
            assert (np.diff(fold_of[labels == kind]) >= 0).all()

    @pytest.mark.parametrize("is_same", [[1, 0, 1], [2, 0, 1, 0], [0.5, 0, 1, 0]])
    def test_labels_of_another_number_or_kind_are_refused(self, is_same):
        with pytest.raises(InputError, match="is_same"):
            kfold_accuracy([0.9, 0.1, 0.8, 0.2], is_same, 2)


METRICS = [
    lambda genuine, impostor: tar_at_far(genuine, impostor, [0.1]),
    equal_error_rate,
    equal_error_point,
    area_under_roc,
    roc_curve,
]


class TestBadInput:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize(
        ("genuine", "impostor", "message"),
        [
            ([], [0.1], "genuine: no scores"),
            ([0.9], [], "impostor: no scores"),
            ([0.9, math.nan], [0.1], "genuine: 1 of 2 scores is not finite, the first at position 1"),
            ([0.9], [0.1, -math.inf], "impostor: 1 of 2 scores is not finite"),
            ([[0.9]], [0.1], "one-dimensional"),
            (["a"], [0.1], "real numbers"),
            ([True], [0.1], "real numbers"),
        ],
    )
    def test_is_refused_by_every_metric_naming_the_kind(self, metric, genuine, impostor, message):
        with pytest.raises(InputError, match=message):
            metric(genuine, impostor)

    @pytest.mark.parametrize("far", [0, -0.1, 1.5, math.nan])
    def test_a_far_outside_zero_to_one_is_refused(self, far):
        with pytest.raises(InputError, match="FAR must lie"):
            tar_at_far([0.9], [0.1], far)

    def test_an_unknown_rule_is_refused(self):
        with pytest.raises(InputError, match="exact, insightface"):
            tar_at_far([0.9], [0.1], 0.5, rule="nearest")  # type: ignore[arg-type]

    def test_is_both_an_error_for_the_terminal_and_a_value_error(self):
        assert issubclass(InputError, FacekdError) and issubclass(InputError, ValueError)

    def test_integers_and_half_precision_are_scores_too(self):
        assert equal_error_rate([3, 4], [1, 2]) == 0
        half = np.array([0.1, 0.2, 0.3], np.float16)
        [point] = tar_at_far(half + np.float16(0.05), half, 1 / 3)
        assert point.false_accepts == 1

    def test_inputs_are_left_as_they_were(self):
        genuine, impostor = overlapping(5)
        before = genuine.copy(), impostor.copy()
        for metric in METRICS:
            metric(genuine, impostor)
        np.testing.assert_array_equal(genuine, before[0])
        np.testing.assert_array_equal(impostor, before[1])


class Tensor:
    """Stands for a tensor that has a gradient, which numpy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach first")


@pytest.mark.parametrize(
    "odd",
    [[0.1, np.nan], [np.inf], [], 1.0, [[1.0]], [True, False], [1 + 2j], ["a"], [[1], [1, 2]], Tensor(),
     np.ma.masked_array([1.0, 2.0], [False, True])],
)  # fmt: skip
@pytest.mark.parametrize("measure", [tar_curve, roc_curve, equal_error_rate, tar_at_far, far_threshold])
def test_what_is_no_list_of_scores_is_refused_by_every_measure(measure, odd):
    fine = np.array([0.5, 0.25])
    rates = {tar_curve: ([0.5],), tar_at_far: ([0.5],)}.get(measure, ())
    with pytest.raises(InputError, match=r"genuine|impostor"):
        measure(odd, 0.5) if measure is far_threshold else measure(odd, fine, *rates)
    if measure is not far_threshold:
        with pytest.raises(InputError, match="impostor"):
            measure(fine, odd, *rates)


@pytest.mark.parametrize("far", [0, -1, 1.5, np.nan, 10**400, "a", None, [0.5, 2], [[0.5]], [[1], [1, 2]]])
@pytest.mark.parametrize("measure", [tar_curve, tar_at_far])
def test_a_curve_takes_the_rates_that_a_point_takes(measure, far):
    with pytest.raises(InputError, match=r"FAR|fars"):
        measure(np.array([0.5, 1.0]), np.array([0.0, 0.25]), far)


def test_scores_without_a_sign_make_the_same_curve():
    genuine, impostor = np.array([3, 9, 7]), np.array([1, 8, 5, 4])
    found = [tar_curve(genuine.astype(kind), impostor.astype(kind), np.array([0.25, 0.5])) for kind in ("u1", "f8")]
    np.testing.assert_array_equal(*found)


def test_an_absurd_far_has_a_short_reason():
    reason = tar_at_far([0.9, 0.8], [0.1, 0.2], [1e-300])[0].reason
    assert reason is not None and "at least 1e+300 comparisons" in reason and len(reason) < 200
