"""`--groups` on generated faces whose groups differ by parameters of the generator: `data synthesize --groups`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep.synthesize_faces import main as synthesize
from evaluation.evaluate_folder import main as folder
from evaluation.evaluate_lfw import main as lfw
from facekd.data.synthetic import render_faces

SIZE = 32
FAR = 0.1


def pixels(images: np.ndarray) -> np.ndarray:
    """Blurred grey images at half the size, of mean 0 and variance 1: (B, S, S, 3) -> (B, S * S / 4)."""
    grey = [cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)[::2, ::2] for image in images]
    rows = np.array(grey, np.float64).reshape(len(images), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / rows.std(axis=1, keepdims=True)


def embedder() -> np.ndarray:
    """A fixed linear map of `pixels` that weakens what differs between photos of one person, from people elsewhere."""
    people, photos = np.divmod(np.arange(320), 4)
    rows = pixels(render_faces(people, photos, SIZE, seed=99)).reshape(80, 4, -1)
    within = (rows - rows.mean(axis=1, keepdims=True)).reshape(320, -1)
    values, vectors = np.linalg.eigh(within.T @ within / 320)
    return vectors / np.sqrt(values + 0.05)


def evaluate(root: Path, people: int, images: int, draws: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Generates a set with groups and evaluates it: embeddings by name, and results.json."""
    options = f"--identities {people} --images-per-identity {images} --size {SIZE} --seed {seed} --layout folders"
    assert synthesize([*f"{options} --pairs 0 --groups --workers 0 --output {root}/set".split()]) == 0
    files = sorted(path for path in (root / "set" / "train").glob("*/*.jpg"))
    names = [f"{path.parent.name}/{path.name}" for path in files]
    rows = pixels(np.stack([cv2.imread(str(path))[:, :, ::-1] for path in files])) @ embedder()
    np.savez(root / "rows.npz", names=np.array(names), embeddings=rows)
    given = f"--embeddings {root}/rows.npz --images {root}/set/train --groups {root}/set/groups.csv --no-report"
    measured = f"--fars {FAR} --bootstrap {draws} --no-embeddings-flipped --output {root}/out"
    assert folder([*given.split(), *measured.split()]) == 0
    result = json.loads((root / "out" / "results.json").read_text())
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return dict(zip(names, rows, strict=True)), {one["name"]: one for one in result["groups"]["attributes"]}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    root = tmp_path_factory.mktemp("planted")
    return *evaluate(root, 64, 5, 200), root


def differences(attribute: dict[str, Any], group: str, kind: str) -> tuple[list[float], list[float]]:
    """The intervals of a group's rate minus the other's, and over it."""
    [entry] = [one[kind] for one in attribute["points"][0]["groups"] if one["group"] == group]
    return entry["minus_others"]["ci95"], entry["ratio_to_others"]["ci95"]


def test_planted_differences_are_found_and_none_elsewhere(planted: tuple[Any, Any, Path]) -> None:
    attributes = planted[1]
    minus, ratio = differences(attributes["photos"], "poor", "fnmr")
    assert minus[0] > 0.05 and ratio[0] > 1.05, "poor photos of one person are refused more often"
    minus, ratio = differences(attributes["looks"], "alike", "fmr")
    assert minus[0] > 0.05 and ratio[0] > 1.5, "people who look alike are taken for each other more often"
    for kind in ("fmr", "fnmr"):
        minus, ratio = differences(attributes["control"], "other", kind)
        assert minus[0] < 0 < minus[1] and ratio[0] < 1 < ratio[1], "nothing was planted there"


def test_counts_of_the_planted_set_are_those_of_all_pairs(planted: tuple[Any, Any, Path]) -> None:
    embeddings, attributes, root = planted
    head, *lines = [line.split(",") for line in (root / "set" / "groups.csv").read_text().splitlines()]
    groups = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in lines}
    people = np.array([name.split("/")[0] for name in embeddings])
    first, second = np.triu_indices(len(people), 1)
    scores = (np.stack(list(embeddings.values())) @ np.stack(list(embeddings.values())).T)[first, second]
    is_same = people[first] == people[second]
    for name, attribute in attributes.items():
        [point] = attribute["points"]
        of_image = np.array([groups[person][name] for person in people])
        is_accepted = scores >= point["threshold"] + 1e-12  # it lies just above a score
        for pair in point["pairs"]:
            sides = {(pair["first"], pair["second"]), (pair["second"], pair["first"])}
            inside = np.any([(of_image[first] == a) & (of_image[second] == b) for a, b in sides], axis=0)
            fmr, fnmr = inside & ~is_same, inside & is_same
            assert (pair["fmr"]["num"], pair["fmr"]["errors"]) == (fmr.sum(), (fmr & is_accepted).sum())
            assert (pair["fnmr"]["num"], pair["fnmr"]["errors"]) == (fnmr.sum(), (fnmr & ~is_accepted).sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_differences_of_more_people(tmp_path: Path, seed: int) -> None:
    attributes = evaluate(tmp_path, 240, 6, 500, seed)[1]
    assert differences(attributes["photos"], "poor", "fnmr")[0][0] > 0.05
    assert differences(attributes["looks"], "alike", "fmr")[1][0] > 1.1
    # Of three sets and two rates one may miss by chance; what it misses by is small.
    for kind in ("fmr", "fnmr"):
        low, high = differences(attributes["control"], "other", kind)[0]
        assert low < 0.03 and high > -0.03


@pytest.mark.slow
def test_groups_of_the_pack_and_of_the_test_people(tmp_path: Path, model: Path) -> None:
    options = f"--identities 24 --images-per-identity 4 --size {SIZE} --test-identities 80 --pairs 2000"
    assert synthesize([*f"{options} --groups --workers 0 --output {tmp_path}/set".split()]) == 0
    common = f"--model {model} --resize --fars {FAR} --bootstrap 100 --no-report"
    pack = f"--images {tmp_path}/set --groups {tmp_path}/set/groups.csv --output {tmp_path}/pack"
    assert folder([*common.split(), *pack.split()]) == 0
    pairs = f"--pairs {tmp_path}/set/test.bin --names {tmp_path}/set/test_pairs.txt --output {tmp_path}/pairs"
    assert lfw([*common.split(), *pairs.split(), "--groups", f"{tmp_path}/set/test_groups.csv"]) == 0
    for out in ("pack", "pairs"):
        found = json.loads((tmp_path / out / "results.json").read_text())["groups"]["attributes"]
        assert [one["name"] for one in found] == ["photos", "looks", "control"]
        assert not any(one["notes"] or one["num_without_group"] for one in found)
