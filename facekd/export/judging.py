"""Compares a variant in fewer bits with its float32 form: cosines on faces, and figures on verification packs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facekd.data.pair_packs.pair_pack import PairPack, decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.embedder import Embedder
from facekd.errors import DataError
from facekd.export.calibration import Faces, fingerprints
from facekd.export.options import JudgingOptions
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.images.preprocessing import fit_images
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted
from facekd.verification.intervals.bootstrap import MIN_SUBJECTS
from facekd.verification.intervals.paired_bootstrap import PairedBootstrap, TarDifference, difference, differences
from facekd.verification.kfold import ChosenFolds, choose_folds
from facekd.verification.measures import measure_pairs
from facekd.verification.scores import cosines

DRAWS = 1000
IMAGES_CHUNK = 256
DIGITS = 6  # of what is written down: the last ones may differ between runs

Forms = Mapping[str, Embedder]  # "fp32", and the variant by its precision


@dataclass(frozen=True)
class Judgement:
    """Holds what was measured of a model before it was kept, as plain values for JSON.

    Attributes:
        cosine: `mean` and `worst` cosine between the embeddings of the variant and of float32, the number of `images`
            and the `faces` they are; None for a model in float32.
        packs: for each pack its `figures` by form and, of a variant, the `differences` from float32 with intervals.
        losses: a sentence for each loss beyond the limits.
        warnings: sentences about what makes the figures doubtful.
    """

    cosine: dict[str, Any] | None = None
    packs: tuple[dict[str, Any], ...] = ()
    losses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge(forms: Forms, faces: Faces | None, judging: JudgingOptions) -> Judgement:
    """Embeds faces and packs with each form, and compares.

    Args:
        forms: "fp32", and a variant after it if there is one.
        faces: those to compare on; None takes the images of the first pack.
        judging: the packs, and the limits.

    Raises:
        DataError: a pack cannot be read, or holds one kind of pairs.
        ModelError: embeddings are not finite, or images have another size.
    """
    packs, warnings = [], list(faces.warnings if faces else ())
    cosine: dict[str, Any] | None = None
    variant = next((name for name in forms if name != "fp32"), None)
    if variant and faces is not None:
        found = {name: embedder.embed(faces.held_out) for name, embedder in forms.items()}
        cosine = _cosine(found["fp32"], found[variant], faces.held_out_text)
    for path in judging.judge:
        pack, digest = _read_pack(path)
        embeddings, shared = _embed_pack(forms, pack, path, faces, judging.resize)
        if shared:
            warnings.append(
                f"{path}: {shared} of its images {agreeing(shared, 'is', 'are')} among those calibrated on, which "
                "flatters the variant"
            )
        if variant and cosine is None:
            cosine = _cosine(
                embeddings["fp32"], embeddings[variant], f"{counted(len(pack.images), 'image')} of {Path(path).name}"
            )
        folds = choose_folds(pack.is_same, recorded=pack.fold_of, fewer=True)
        packs.append({"pack": Path(path).name, "sha256": digest, **_measure(embeddings, pack, folds, path)})
    losses = list[str]()
    if variant and cosine is not None:
        if not cosine["mean"] >= judging.allow_cosine:
            losses.append(_too_far(cosine, judging))
        for pack in packs:
            lost, doubtful = _losses(pack, judging, variant)
            losses += lost
            warnings += doubtful
    return Judgement(cosine, tuple(packs), tuple(losses), tuple(warnings))


def _cosine(plain: np.ndarray, variant: np.ndarray, faces: str) -> dict[str, Any]:
    found = cosines(plain, variant, faces)
    return {"mean": _rounded(found.mean()), "worst": _rounded(found.min()), "images": len(found), "faces": faces}


def _read_pack(path: Path | str) -> tuple[PairPack, str]:
    """Reads a pack that holds both kinds of pairs, and its checksum."""
    with unchanged(path):
        pack, digest = read_pair_pack(path), sha256_of_file(path)
    num_genuine = int(pack.is_same.sum())
    if min(num_genuine, len(pack) - num_genuine) < 2:
        raise DataError(
            f"{path}: {num_genuine:,} genuine and {counted(len(pack) - num_genuine, 'impostor pair')}; a model is "
            "judged on both kinds: give a pack with hundreds of each"
        )
    return pack, digest


def _embed_pack(
    forms: Forms, pack: PairPack, path: Path | str, faces: Faces | None, resize: bool
) -> tuple[dict[str, np.ndarray], int]:
    """Embeds the images of a pack with each form; returns (2N, D) by form, and how many were calibrated on."""
    # An image that is in several pairs is embedded once.
    place_of = {image: place for place, image in enumerate(dict.fromkeys(pack.images))}
    images = list(place_of)
    calibrated = set(fingerprints(faces.calibration)) if faces is not None else set()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in forms}
    size = next(iter(forms.values())).preprocessing.image_size
    shared = 0
    for start in track(range(0, len(images), IMAGES_CHUNK), f"judging on {Path(path).name}", len(images), IMAGES_CHUNK):
        decoded = decode_images(images[start : start + IMAGES_CHUNK], source=path)
        decoded = fit_images(decoded, size, resize)  # as the faces calibrated on are, or none would be recognised
        shared += sum(digest in calibrated for digest in fingerprints(decoded))
        for name, embedder in forms.items():
            parts[name].append(embedder.embed(decoded))
    rows = np.array([place_of[image] for image in pack.images])
    return {name: np.concatenate(part)[rows] for name, part in parts.items()}, shared


def _measure(
    embeddings: Mapping[str, np.ndarray], pack: PairPack, folds: ChosenFolds, path: Path | str
) -> dict[str, Any]:
    """Measures each form on a pack, and of a variant how far it is from float32."""
    fold_of = folds.fold_of
    scores = {name: cosines(rows[0::2], rows[1::2], path) for name, rows in embeddings.items()}
    measured = {
        name: measure_pairs(own, pack.is_same, fold_of, subjects=pack.subjects, replicates=DRAWS)
        for name, own in scores.items()
    }
    found: dict[str, Any] = {
        "num_pairs": len(pack),
        "num_genuine": int(pack.is_same.sum()),
        "folds": {"number": int(fold_of.max()) + 1, "kind": folds.kind},
        "figures": {name: _figures(result) for name, result in measured.items()},
    }
    if len(scores) == 1:
        return found
    variant = next(name for name in scores if name != "fp32")

    # Both forms under the same draws of people or, if they are not known, of pairs.
    fars = [point["far"] for point in measured["fp32"]["tar_at_far"] if point["tar"] is not None]
    bootstrap = PairedBootstrap(pack.is_same, _subjects_of(pack), fars, DRAWS)
    plain, own = scores["fp32"], scores[variant]
    changes = {
        "accuracy": difference(bootstrap.accuracies(plain, fold_of), bootstrap.accuracies(own, fold_of)),
        "eer": difference(bootstrap.eers(plain), bootstrap.eers(own)),
    }
    tars = differences(bootstrap.tars(plain), bootstrap.tars(own), fars)
    changes |= {f"tar@{entry.far:g}": _change_of(entry) for entry in tars}
    found["resampled"] = "pairs" if bootstrap.num_subjects is None else "people"
    found["differences"] = {
        name: {"difference": _rounded(change[0]), "ci95": [_rounded(end) for end in change[1]]}
        for name, change in changes.items()
        if change is not None
    }
    return found


def _change_of(entry: TarDifference) -> tuple[float, tuple[float, float], float] | None:
    if entry.difference is None or entry.ci95 is None or entry.p_value is None:
        return None
    return entry.difference, entry.ci95, entry.p_value


def _subjects_of(pack: PairPack) -> np.ndarray | None:
    """Returns the numbers (N, 2) of the people of each pair; None if they are not known, or too few to draw from."""
    if pack.subjects is None or not np.array_equal(pack.subjects[:, 0] == pack.subjects[:, 1], pack.is_same):
        return None
    codes = np.unique(pack.subjects, return_inverse=True)[1].reshape(-1, 2)
    return codes if len(np.unique(codes[pack.is_same, 0])) >= MIN_SUBJECTS else None


def _figures(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a pack that a card shows, with their own 95 % intervals."""
    return {
        "accuracy": _rounded(measured["accuracy"]["mean"]),
        "accuracy_std": _rounded(measured["accuracy"]["std"]),
        "eer": _rounded(measured["eer"]),
        "eer_ci95": [_rounded(end) for end in measured["eer_ci95"]],
        "tar_at_far": [
            {"far": point["far"], "tar": _rounded(point["tar"]), "ci95": [_rounded(end) for end in point["ci95"]]}
            for point in measured["tar_at_far"]
            if point["tar"] is not None
        ],
    }


def _too_far(cosine: Mapping[str, Any], judging: JudgingOptions) -> str:
    return (
        f"the mean cosine to float32 is {cosine['mean']:.4f} (worst {cosine['worst']:.4f}, on {cosine['faces']}), at "
        f"least {judging.allow_cosine:g} is asked for (--allow-cosine)"
    )


def _losses(pack: Mapping[str, Any], judging: JudgingOptions, variant: str) -> tuple[list[str], list[str]]:
    """Returns a sentence for each loss on a pack beyond the limit, and one if the pack is too small to exclude one.

    A loss counts if it is larger than allowed and its interval excludes none: on a thousand pairs the accuracy of
    equally good models differs by a point.
    """
    names = {"accuracy": "accuracy", "eer": "EER"}
    losses, largest = [], (0.0, "")
    for name, change in pack["differences"].items():
        sign = 1 if name == "eer" else -1
        lost = 100 * sign * change["difference"]
        low, high = sorted(100 * sign * end for end in change["ci95"])
        what = names.get(name, name.replace("tar@", "TAR at FAR "))
        if lost > judging.allow_loss + 10**-DIGITS and low > 0:
            losses.append(
                f"on {pack['pack']} ({counted(pack['num_pairs'], 'pair')}) {variant} loses {lost:.2f} points of "
                f"{what} (95 % interval {low:.2f} to {high:.2f}), at most {judging.allow_loss:g} "
                f"{agreeing(judging.allow_loss, 'is', 'are')} allowed (--allow-loss)"
            )
        elif name in names:
            largest = max(largest, (high, what))
    if losses or largest[0] <= judging.allow_loss:
        return losses, []
    return [], [
        f"{pack['pack']}: {counted(pack['num_pairs'], 'pair is', 'pairs are')} too few to exclude a loss of more than "
        f"{judging.allow_loss:g} {agreeing(judging.allow_loss, 'point')}: the interval of the {largest[1]} ends at "
        f"{largest[0]:.2f}"
    ]


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
