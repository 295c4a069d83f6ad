"""Embeds degraded images by a model, compares, and measures: one entry for each strength, as plain values for JSON.

Shapes: n pairs, D embedding values, R bootstrap draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.robustness.plan import SIDES, Comparisons, Sides
from evaluation.sets.embedding_cache import embed_pair_set
from evaluation.sets.preprocessing_trials import WAYS
from facekd.embedder import Embedder
from facekd.embedder.model_options import open_as_told
from facekd.errors import ModelError
from facekd.utils.progress import track
from facekd.verification import wilson_interval
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS, outer_interval, percentile_interval
from facekd.verification.intervals.paired_bootstrap import PairedBootstrap, difference
from facekd.verification.measures import measure_pairs
from facekd.verification.scores import cosines

Entry = dict[str, Any]  # of results.json
# Ways to normalise that nobody takes for another by mistake and hardly notices are left out: 127.5 and 128 in std.
CONTROL_WAYS = ("-1..1", "ImageNet", "0..1", "raw pixels")


@dataclass(frozen=True)
class Settings:
    """Holds how images are degraded and embedded, and how scores are measured.

    Attributes:
        names: keys of `DEGRADATIONS`.
        sides: whether the second image of a pair is degraded, or both.
        flip: whether the embedding of the mirror image is added.
        cache: folder of kept embeddings, or None.
        fars: targets for TAR@FAR.
        draws: number of bootstrap draws, or 0.
        seed: random seed of degradations and draws.
    """

    names: Sequence[str]
    sides: Sides
    flip: bool
    cache: Path | None
    fars: Sequence[float]
    draws: int
    seed: int

    @property
    def levels(self) -> list[tuple[str, float]]:
        """Returns each degradation with each of its strengths."""
        return [(name, strength) for name in self.names for strength in DEGRADATIONS[name].strengths]


def evaluate_model(
    path: str,
    opened: tuple[Embedder, Entry],
    options: argparse.Namespace,
    compared: Comparisons,
    settings: Settings,
) -> Entry:
    """Evaluates one model on clean images, on degraded ones, and with its input prepared wrongly.

    Args:
        path: the model as it was named.
        opened: the model, and its entry in results.json.
        options: options that say how it is opened again, to prepare its input wrongly.
        compared: the pairs.
        settings: what is done to them.

    Returns:
        `model`, `clean`, `degradations` and `controls`, entries of results.json.

    Raises:
        ModelError: the model fails.
        DataError: an embedding has no direction.
    """
    embedder, about = opened
    clean = embed_pair_set(embedder, compared.clean_images(), settings.flip, settings.cache)
    measure = _Measure(compared, settings, _score(clean, clean, compared, "both"))

    # Embed everything first: that takes the time, and is kept as it goes.
    scores = dict(_degraded_scores(embedder, clean, compared, settings, Path(path).name))
    measured: dict[str, list[Entry]] = {name: [] for name in settings.names}
    for (name, strength), own in track(scores.items(), "measuring", len(scores)):
        measured[name].append({"strength": strength, **measure(own)})
    return {
        "name": Path(path).name,
        "model": about,
        "clean": measure.clean,
        "degradations": measured,
        "controls": _measure_controls(about["path"], options, embedder, clean, compared, settings, measure),
    }


def _degraded_scores(
    embedder: Embedder, clean: np.ndarray, compared: Comparisons, settings: Settings, name: str
) -> Iterator[tuple[tuple[str, float], np.ndarray]]:
    """Yields each level and the scores (n,) at it."""
    count = len(compared.pairs) * (1 if settings.sides == "probe" else 2)
    levels = settings.levels
    for level in track(levels, f"embedding by {name}", len(levels) * count, count):
        images = compared.degraded_images(*level, settings.sides, settings.seed)
        embeddings = embed_pair_set(embedder, images, settings.flip, settings.cache, show_progress=False)
        yield level, _score(clean, embeddings, compared, settings.sides)


def _score(clean: np.ndarray, changed: np.ndarray, compared: Comparisons, sides: Sides) -> np.ndarray:
    """Returns the cosines (n,) of pairs.

    Args:
        clean: (2n, D) embeddings of all images as they are.
        changed: those of the images that were changed: (n, D) the second ones, or (2n, D) all.
        compared: the pairs.
        sides: which of the two `changed` holds.
    """
    second = changed if sides == "probe" else changed[1::2]
    return cosines(clean[::2] if sides == "probe" else changed[::2], second, compared.pair_set.path)


def _measure_controls(
    path: str,
    options: argparse.Namespace,
    embedder: Embedder,
    clean: np.ndarray,
    compared: Comparisons,
    settings: Settings,
    measure: _Measure,
) -> list[Entry]:
    """Measures the model with its input prepared wrongly: in both images of a pair alike, and in the second alone."""
    controls = []
    own = embedder.preprocessing
    wrong: dict[str, dict[str, Any]] = {"red and blue exchanged": {"color": "bgr" if own.color == "rgb" else "rgb"}}
    for way in CONTROL_WAYS:
        mean, std = WAYS[way]
        if not (np.allclose(mean, own.mean, atol=1) and np.allclose(std, own.std, rtol=0.02)):
            wrong[f"normalised as {way}"] = {"mean": mean, "std": std}
    for name, changes in track(wrong.items(), "wrong preprocessings", len(wrong)):
        try:
            other = open_as_told(path, argparse.Namespace(**{**vars(options), **changes}))
            changed = embed_pair_set(other, compared.clean_images(), settings.flip, settings.cache, show_progress=False)
        except ModelError as error:
            controls.append({"name": name, "degraded": None, "problem": str(error)})
            continue
        for sides in SIDES:
            part = changed[1::2] if sides == "probe" else changed
            controls.append({"name": name, "degraded": sides, **measure(_score(clean, part, compared, sides))})
    return controls


class _Measure:
    """Measures scores of the same pairs, and how their EER differs from that of clean images.

    Attributes:
        clean: the measures of clean images.
    """

    def __init__(self, compared: Comparisons, settings: Settings, scores: np.ndarray) -> None:
        self._compared, self._settings = compared, settings
        self._paired = None
        if settings.draws:
            self._paired = PairedBootstrap(
                compared.is_same, _codes(compared), settings.fars, settings.draws, settings.seed
            )
            self._clean_eer = self._paired.eers(scores)
        self._thresholds: list[tuple[float, float]] = []
        self.clean: Entry = self(scores)
        points = self.clean["tar_at_far"]
        self._thresholds = [(point["far"], point["threshold"]) for point in points if point["tar"] is not None]
        self.clean["at_clean_threshold"] = self._at_thresholds(scores)

    def __call__(self, scores: np.ndarray) -> Entry:
        compared, settings = self._compared, self._settings
        measured = measure_pairs(
            scores,
            compared.is_same,
            compared.fold_of,
            settings.fars,
            "exact",
            compared.subjects,
            settings.draws,
            settings.seed,
        )
        measured["accuracy"]["ci95"] = measured["eer_change"] = None
        if self._paired is not None:
            drawn = self._paired.accuracies(scores, compared.fold_of)[1]
            drawn = drawn[np.isfinite(drawn)]
            # Draws of a sample without an error have none either, so the interval is never narrower than Wilson's.
            if len(drawn):
                pairs = len(compared.is_same)
                own = wilson_interval(round(measured["accuracy"]["mean"] * pairs), pairs)
                measured["accuracy"]["ci95"] = list(outer_interval(percentile_interval(drawn), own))
            change = difference(self._clean_eer, self._paired.eers(scores))
            if change is not None:
                measured["eer_change"] = {"difference": change[0], "ci95": list(change[1]), "p_value": change[2]}
        return {**measured, "at_clean_threshold": self._at_thresholds(scores)}

    def _at_thresholds(self, scores: np.ndarray) -> list[Entry]:
        """Counts what the thresholds that were chosen on clean images accept of these scores."""
        is_same = self._compared.is_same
        entries = []
        for far, threshold in self._thresholds:
            entry: Entry = {"far": far, "threshold": threshold}
            for name, own in (("tar", scores[is_same]), ("achieved_far", scores[~is_same])):
                accepted = int((own >= threshold).sum())
                entry[name], entry[f"{name}_ci95"] = accepted / len(own), list(wilson_interval(accepted, len(own)))
            entries.append(entry)
        return entries


def _codes(compared: Comparisons) -> np.ndarray | None:
    """Returns the subjects of each pair as whole numbers (n, 2); None if they are not known or too few to resample."""
    if compared.subjects is None:
        return None
    codes = np.unique(compared.subjects, return_inverse=True)[1].reshape(-1, 2)
    return codes if len(np.unique(codes[compared.is_same, 0])) >= MIN_SUBJECTS else None
