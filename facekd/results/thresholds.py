"""Reads the thresholds that an evaluation measured, to decide about new images by them.

A threshold belongs to the model that it was measured with, and to what was compared: with or without the mirror image.
Between two measured thresholds nothing is interpolated: the error rates of a cosine are the range between those of its
two neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import ConfigError, DataError
from facekd.results.reading import name_of_set, read_curves, read_result, results_file
from facekd.results.schema import FOLDER_FORMAT, IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT, SUMMARY_FORMAT, check_result
from facekd.results.shape import ROUNDING
from facekd.utils.foreign import shown, some_of
from facekd.verification.operating_points import FAR_ROUNDING, TarAtFar

REMEDY = "it was changed since `facekd evaluate` wrote it; run that again"


@dataclass(frozen=True)
class RatesAtCosine:
    """Bounds the error rates of accepting one cosine and all above it.

    Attributes:
        far: the smallest and the largest share of impostor comparisons that reach the cosine; equal if it was measured.
        tar: the same of genuine comparisons.
    """

    far: tuple[float, float]
    tar: tuple[float, float]


@dataclass(frozen=True)
class MeasuredThresholds:
    """Holds what an evaluation measured of thresholds on cosines.

    Attributes:
        path: the file of the results.
        data: the name of the set that was evaluated.
        model: the entry `model` of the results.
        flip: whether embeddings were added to those of the mirror images.
        points: one for each FAR asked for, `tar` None where it could not be measured; in the order of the file.
        threshold, far, tar: (K,) float64, thresholds from the highest to the lowest and the rates that they achieve.
        remarks: sentences about what makes the rates differ for new pairs of images.
    """

    path: Path
    data: str
    model: Mapping[str, Any]
    flip: bool
    points: Sequence[TarAtFar]
    threshold: np.ndarray
    far: np.ndarray
    tar: np.ndarray
    remarks: Sequence[str]

    def point_at(self, far: float) -> TarAtFar:
        """Returns the operating point that was measured for a FAR.

        Raises:
            ConfigError: it was not asked for, or not measurable.
        """
        for point in self.points:
            if abs(point.far - far) <= FAR_ROUNDING * far:
                if point.tar is None:
                    raise ConfigError(f"{self.path}: FAR {far:g} is {point.reason}; {self._measured()}")
                return point
        raise ConfigError(
            f"{self.path}: has no threshold for FAR {far:g}; {self._measured()}, or evaluate again with --fars {far:g}"
        )

    def rates_at(self, cosine: float) -> RatesAtCosine:
        """Returns the error rates of accepting a cosine: those of the measured thresholds on both sides of it."""
        # Thresholds fall, so that those before `place` lie above the cosine: they are stricter.
        place = int(np.searchsorted(-self.threshold, -cosine, side="left"))
        lenient = (self.far[place], self.tar[place]) if place < len(self.threshold) else (1.0, 1.0)
        if place < len(self.threshold) and self.threshold[place] == cosine:
            strict = lenient
        else:
            strict = (self.far[place - 1], self.tar[place - 1]) if place else (0.0, 0.0)
        return RatesAtCosine((float(strict[0]), float(lenient[0])), (float(strict[1]), float(lenient[1])))

    def check_settings(self, model: Mapping[str, Any], flip: bool, faces: str) -> None:
        """Refuses thresholds that say nothing about the cosines at hand.

        Args:
            model: describes the model as `results.json` does: its `fingerprint`, and if known also `path`, `sha256` and
                `preprocessing`.
            flip: whether the mirror images' embeddings are added.
            faces: names what is to be decided about, for the message: "the faces of faces.npz".

        Raises:
            DataError: the thresholds were measured with another model or preprocessing, or with the other `flip`.
        """
        measured = f"{self.path}: its thresholds were measured with"
        if self.model["fingerprint"] != model["fingerprint"]:
            raise DataError(f"{measured} {_how_models_differ(self.model, model)} {faces}; evaluate with that one")
        if self.flip != flip:
            ours, theirs = ("with", "without") if self.flip else ("without", "with")
            raise DataError(
                f"{self.path}: its thresholds are for embeddings {ours} those of the mirror images, and {faces} are "
                f"{theirs} them; evaluate again with {'--flip' if flip else '--no-flip'}, or embed with "
                f"{'--flip' if self.flip else '--no-flip'}"
            )

    def _measured(self) -> str:
        known = [f"{point.far:g}" for point in self.points if point.tar is not None]
        return f"--far takes what it has: {some_of(known, 12)}" if known else "it has none that could be measured"


def read_thresholds(place: str | os.PathLike[str]) -> MeasuredThresholds:
    """Reads the thresholds of an evaluation: `facekd evaluate lfw`, `folder` (all pairs), `ijbc` (1:1) or `protocol`.

    Args:
        place: the output folder of the evaluation, or its `results.json` under any name. If its curves.npz lies beside
            it, more thresholds are known.

    Raises:
        DataError: there are no such results, they are damaged, or contradict themselves.
    """
    # The results: of one set, with pairs, and by a model.
    result, path = read_result(place), results_file(place)
    kind = result["format"]
    if kind == SUMMARY_FORMAT:
        check_result(path, result)
        names = some_of([one["pair_set"]["name"] for one in result["pair_sets"]], 8)
        raise DataError(f"{path}: holds results of several packs; give the folder of one in {path.parent}: {names}")
    if kind not in (LFW_FORMAT, FOLDER_FORMAT, IJB_FORMAT, PROTOCOL_FORMAT):
        raise DataError(
            f"{path}: holds {shown(kind)}; thresholds are measured by `facekd evaluate lfw`, `folder`, `ijbc` and "
            "`protocol`"
        )
    check_result(path, result)
    model = _model_of(path, result)
    if not result.get("tar_at_far"):
        raise DataError(
            f"{path}: has no thresholds, since no pairs were evaluated (only identification); evaluate pairs"
        )

    # Its thresholds: those of the FARs, and those of the curve where that is.
    points = [_read_point(entry) for entry in result["tar_at_far"]]
    curves = read_curves(path.parent, result) if path.name == "results.json" else {}
    threshold, far, tar = _all_points(path, points, curves)
    return MeasuredThresholds(
        path, shown(name_of_set(result)), model, _flip_of(path, result), points, threshold, far, tar, _remarks(result)
    )


def _model_of(path: Path, result: Mapping[str, Any]) -> Mapping[str, Any]:
    model = result.get("model")
    if model is None or model.get("fingerprint") is None:
        given = "embeddings that were made elsewhere" if result.get("embeddings") else "a model that it does not name"
        raise DataError(
            f"{path}: its thresholds are for {given}, so that nobody can tell whether they fit; evaluate with --model"
        )
    return model


def _flip_of(path: Path, result: Mapping[str, Any]) -> bool:
    """Returns whether mirror images counted; refuses scores that are no cosines."""
    protocol = result["protocol"]
    score = protocol.get("score", "cosine")
    if score != "cosine":
        raise DataError(f"{path}: its thresholds are for the score '{shown(score)}', and cosines are compared here")
    flip = protocol.get("flip", protocol.get("flip_augment"))
    if not isinstance(flip, bool):
        raise DataError(f"{path}: does not say whether mirror images were embedded (protocol.flip); {REMEDY}")
    return flip


def _remarks(result: Mapping[str, Any]) -> list[str]:
    if result["format"] != IJB_FORMAT:
        return []
    return [
        "these rates are of templates, which pool several images of a face; two single images differ more, and their "
        "TAR is lower"
    ]


def _read_point(entry: Mapping[str, Any]) -> TarAtFar:
    """Returns an entry of `tar_at_far`, which `check_result` has looked at."""
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(TarAtFar)}
    return TarAtFar(**values)


def _all_points(
    path: Path, points: Sequence[TarAtFar], curves: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns thresholds, falling, with the FAR and the TAR of each: (K,) float64."""
    rows = [(point.threshold, point.achieved_far, point.tar) for point in points if point.tar is not None]
    if {"roc_threshold", "roc_far", "roc_tar"} <= curves.keys() and len(curves["roc_threshold"]) == len(
        curves["roc_far"]
    ):
        rows += zip(*(curves[f"roc_{name}"].tolist() for name in ("threshold", "far", "tar")), strict=True)
    table = np.array(sorted(rows, reverse=True), dtype=np.float64).reshape(-1, 3)
    if (np.diff(table[:, 1:], axis=0) < -ROUNDING).any():
        raise DataError(f"{path}: a lower threshold accepts fewer comparisons than a higher one in it; {REMEDY}")
    far, tar = np.maximum.accumulate(table[:, 1:], axis=0).T
    return table[:, 0], far, tar


def _how_models_differ(measured: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Says in words what differs between two models of unequal fingerprints, as far as it is known."""
    name = shown(Path(measured.get("path") or "?").name)
    digests = measured.get("sha256"), model.get("sha256")
    if None not in digests and digests[0] != digests[1]:
        return f"another model ({name}) than"

    # The same file, or nobody knows: what is described differently?
    ours, theirs = (
        {**(one.get("preprocessing") or {}), **({"output": one["output"]} if "output" in one else {})}
        for one in (measured, model)
    )
    changed = [key for key in ours if key in theirs and _plain(ours[key]) != _plain(theirs[key])]
    listed = "; ".join(f"{shown(key)} {shown(ours[key])}, not {shown(theirs[key])}" for key in changed)
    if None in digests:
        return f"another model ({name}), or other options{f' ({listed})' if listed else ''}, than"
    return f"the same file ({name}), but {f'otherwise ({listed})' if listed else 'with another --resize'}, than"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
