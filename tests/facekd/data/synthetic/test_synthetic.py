"""Generated faces: the same numbers give the same bytes, every parameter shows, people differ but not plainly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_curve

from facekd.data.synthetic import Parameters, identities_of, render, render_faces, sample_identities, sample_nuisances
from facekd.data.synthetic.features import landmarks
from facekd.data.synthetic.geometry import TEMPLATE, Pose
from facekd.data.synthetic.parameters import (
    FACIAL_HAIR,
    HAIR_STYLES,
    IDENTITY_RANGES,
    NUISANCE_CHANCES,
    NUISANCE_RANGES,
)
from facekd.errors import DataError

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "synthetic_faces.png"


def grid(first: int, people: int, photos: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(first, first + people), photos), np.tile(np.arange(photos), people)


def changed(table: Parameters, **columns: np.ndarray) -> Parameters:
    return Parameters({**table.columns, **columns})


def plain_nuisance(num: int) -> Parameters:
    """Frontal, lit softly from the left, unobstructed, without noise or blur."""
    columns = dict(sample_nuisances(np.arange(num), np.zeros(num, int)).columns)
    for name, column in columns.items():
        if column.dtype == bool or name in NUISANCE_RANGES or name in ("yaw", "pitch"):
            columns[name] = np.zeros_like(column)
    ones = np.ones(num)
    return Parameters(
        {**columns, "eye_squint": ones, "saturation": ones, "light_x": -0.6 * ones, "light_contrast": 0.4 * ones}
    )


def test_images_are_rgb_uint8() -> None:
    people, photos = grid(0, 3, 2)
    for size in (112, 64, 33, 16):
        images = render_faces(people, photos, size)
        assert images.shape == (6, size, size, 3) and images.dtype == np.uint8 and images.flags.c_contiguous
        assert images.std() > 20
    # Skin is redder than it is blue, for everybody, in neutral light.
    faces = render(sample_identities(40), plain_nuisance(40), 64)[:, 30:44, 20:44].reshape(40, -1, 3).mean(axis=1)
    assert (faces[:, 0] > faces[:, 2]).all()


def test_an_image_does_not_depend_on_its_batch() -> None:
    people, photos = grid(0, 15, 9)  # more than one chunk
    together = render_faces(people, photos, 48, seed=3)
    order = np.random.default_rng(0).permutation(len(people))
    np.testing.assert_array_equal(render_faces(people[order], photos[order], 48, seed=3), together[order])
    for i in (0, 7, 70, 134):
        alone = render_faces(people[i : i + 1], photos[i : i + 1], 48, seed=3)
        np.testing.assert_array_equal(alone[0], together[i])
    identity = sample_identities(15, seed=3).take(people)
    np.testing.assert_array_equal(render(identity, sample_nuisances(people, photos, seed=3), 48), together)


def test_people_do_not_depend_on_how_many_there_are() -> None:
    many = sample_identities(50, seed=1)
    for part in (sample_identities(7, seed=1), sample_identities(4, seed=1, first=3)):
        first = 3 if len(part) == 4 else 0
        np.testing.assert_array_equal(part.vectors(), many.take(np.arange(first, first + len(part))).vectors())
    np.testing.assert_array_equal(identities_of(np.array([30, 2, 30]), 1).vectors(), many.vectors()[[30, 2, 30]])


def test_seeds_people_and_photos_differ() -> None:
    people, photos = grid(0, 8, 1)
    first = render_faces(people, photos, 32)
    assert (render_faces(people, photos, 32, seed=1) != first).any(axis=(1, 2, 3)).all()
    assert (render_faces(people, photos + 1, 32) != first).any(axis=(1, 2, 3)).all()
    vectors = sample_identities(2000).vectors()
    assert len(np.unique(vectors[:, :20], axis=0)) == 2000
    for seed in (-5, 2**70):  # any whole number is a seed
        assert render_faces(people, photos, 32, seed=seed).std() > 20


def test_parameters_are_uniform_and_independent() -> None:
    people = sample_identities(4000)
    columns = []
    for name, (low, high) in IDENTITY_RANGES.items():
        if name in ("hair_tone", "iris_tone"):  # these follow the skin, see below
            continue
        unit = (people[name] - low) / (high - low)
        assert 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1
        counts = np.histogram(unit, 10, (0, 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 35, name  # chi-square, 9 degrees of freedom: p < 1e-4 beyond 34
        columns.append(unit)
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 0.08  # five standard errors
    assert np.corrcoef(people["hair_tone"], people["skin_melanin"])[0, 1] < -0.3
    assert set(people["hair_style"].tolist()) == set(range(len(HAIR_STYLES)))
    photos = sample_nuisances(np.arange(4000), np.arange(4000))
    for name, chance in NUISANCE_CHANCES.items():
        assert abs(photos[name].mean() - chance) < 5 * np.sqrt(chance * (1 - chance) / 4000), name


@pytest.mark.parametrize("name", IDENTITY_RANGES)
def test_every_parameter_of_a_person_shows(name: str) -> None:
    people, nuisance = sample_identities(24, seed=5), plain_nuisance(24)
    if name == "fringe_y":
        people = changed(people, hair_style=np.full(24, HAIR_STYLES.index("fringe")))
    if name == "facial_hair_density":
        people = changed(people, facial_hair=np.full(24, FACIAL_HAIR.index("beard")))
    # Some show in some people only: the colour of hair, for one, not in the bald.
    low, high = (render(changed(people, **{name: np.full(24, end)}), nuisance, 64) for end in IDENTITY_RANGES[name])
    largest = np.abs(low.astype(int) - high).max(axis=(1, 2, 3))
    assert (largest > 10).sum() >= 6


@pytest.mark.parametrize("name", [*NUISANCE_RANGES, *NUISANCE_CHANCES])
def test_every_circumstance_shows(name: str) -> None:
    people = sample_identities(24, seed=5)
    nuisance = sample_nuisances(np.arange(24), np.zeros(24, int), seed=5)
    if name in NUISANCE_CHANCES:
        ends: list[float | bool] = [False, True]
    else:
        ends = list(NUISANCE_RANGES[name])
    # Each needs another one to be there to show: a shadow's depth a shadow, a hat's shape a hat.
    needs = {"shadow": "has_cast_shadow", "glasses_shape": "has_glasses", "hat": "has_hat", "blur": "is_blurred"}
    needs |= {"low_res": "is_low_resolution", "motion": "is_motion_blurred"}
    for start, condition in needs.items():
        if name.startswith(start):
            nuisance = changed(nuisance, **{condition: np.ones(24, bool)})
    if name == "shadow_angle":
        ends[1] = np.pi  # the two ends of the range are one direction
    if name == "motion_angle":
        ends[1] = np.pi / 2
    low, high = (render(people, changed(nuisance, **{name: np.full(24, end)}), 64) for end in ends)
    largest = np.abs(low.astype(int) - high).max(axis=(1, 2, 3))
    assert (largest > 8).sum() >= 9


def test_crops_are_aligned_to_the_template() -> None:
    people = sample_identities(200)
    numbers = np.arange(200)
    exact = plain_nuisance(200)
    pose = Pose(people, exact)
    points = landmarks(people, exact, pose)
    pose.align(points, exact)
    frontal = np.linalg.norm(pose.project(points) - TEMPLATE, axis=-1) * 112
    # What is left is what a similarity cannot remove: the differences between people.
    assert frontal.mean() < 3 and frontal.max() < 9
    nuisance = sample_nuisances(numbers, numbers)
    turned = Pose(people, nuisance)
    turned.align(landmarks(people, nuisance, turned), nuisance)
    error = np.linalg.norm(turned.project(landmarks(people, nuisance, turned)) - TEMPLATE, axis=-1) * 112
    assert frontal.mean() < error.mean() < 9


def test_alignment_is_the_least_squares_similarity() -> None:
    people = sample_identities(5)
    nuisance = plain_nuisance(5)
    nuisance = changed(nuisance, yaw=np.linspace(-0.6, 0.6, 5), pitch=np.linspace(0.3, -0.3, 5))
    pose = Pose(people, nuisance)
    points = landmarks(people, nuisance, pose)
    before = pose.project(points)  # the similarity is still the identity
    pose.align(points, nuisance)
    after = pose.project(points)
    for row in range(5):
        x, y = before[row].T
        zero, one = np.zeros(5), np.ones(5)
        design = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        solution = np.linalg.lstsq(design, TEMPLATE.T.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(after[row].T.reshape(-1), design @ solution, atol=1e-9)


def test_wrong_use_is_explained() -> None:
    people = sample_identities(3)
    with pytest.raises(DataError, match="3 identities for 2 photos"):
        render(people, sample_nuisances(np.arange(2), np.arange(2)))
    with pytest.raises(DataError, match="size is 8 pixels; generated faces need at least 16"):
        render(people, sample_nuisances(np.arange(3), np.arange(3)), 8)
    with pytest.raises(DataError, match="one of each per image"):
        render_faces(np.arange(3), np.arange(4))
    assert render_faces(np.arange(0), np.arange(0), 32).shape == (0, 32, 32, 3)


def test_the_renderer_has_not_changed_unnoticed() -> None:
    """Generated sets are named by their seeds, so a change of the renderer must be a decision.

    Made by `cv2.imwrite(GOLDEN, sheet)`. Small differences are allowed for: OpenCV's versions draw lines differently.
    After a deliberate change write the picture again and raise `RENDERER` in data_prep/synthesize_faces.py.
    """
    people, photos = grid(0, 3, 6)
    images = render_faces(people, photos, 48).reshape(3, 6, 48, 48, 3)
    sheet = images.transpose(0, 2, 1, 3, 4).reshape(3 * 48, 6 * 48, 3)
    golden = cv2.cvtColor(cv2.imread(str(GOLDEN)), cv2.COLOR_BGR2RGB)
    assert np.abs(sheet.astype(int) - golden).mean() < 0.5


def equal_error_rate(embedding: np.ndarray, people: np.ndarray) -> float:
    embedding = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    first, second = np.triu_indices(len(people), 1)
    fpr, tpr, _ = roc_curve(people[first] == people[second], (embedding @ embedding.T)[first, second])
    return float(np.interp(0, fpr - (1 - tpr), fpr))


@pytest.mark.slow
def test_weak_features_fail_where_learned_ones_do_better_on_new_people() -> None:
    people, photos = grid(0, 120, 10)
    train = render_faces(people, photos, 24).reshape(len(people), -1) / 255.0
    new_people, new_photos = grid(10_000, 50, 6)
    test = render_faces(new_people, new_photos, 24).reshape(len(new_people), -1) / 255.0
    reduce = PCA(70, whiten=True, svd_solver="randomized", random_state=0).fit(train)
    linear = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(reduce.transform(train), people)
    by_pixels = equal_error_rate(test - train.mean(axis=0), new_people)
    by_learning = equal_error_rate(reduce.transform(test) @ linear.scalings_[:, :40], new_people)
    assert 0.30 < by_pixels < 0.45
    assert 0.15 < by_learning < by_pixels - 0.05
