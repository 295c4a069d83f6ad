"""Turns the embeddings of a listed set into what results.json says of it: searches, pairs and curves."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from evaluation.ijb.scoring import rank_pairs
from evaluation.protocols.kinds import Kind
from evaluation.protocols.listed_set import Entries, ImagePairs, ListedSet
from evaluation.protocols.set_embeddings import DistractorRows, SetEmbeddings
from evaluation.protocols.stranger_pairs import measure_against_strangers
from facekd.errors import DataError, InputError
from facekd.utils.foreign import shown
from facekd.utils.text_arrays import join_text_arrays
from facekd.verification.measures import add_intervals, measure_verification, notes_on_ties, verification_curves
from facekd.verification.search.block_search import HeldRows, Others, find_mates, rank_mates
from facekd.verification.search.identification import (
    SearchResult,
    identification_curves,
    mean_of_galleries,
    measure_search,
)
from facekd.verification.search.retrieval import average_precisions
from facekd.verification.search.search_intervals import ProbePeople, add_search_intervals

PRECISION = "mean_average_precision"


def measure_set(
    listed: ListedSet, kind: Kind, embeddings: SetEmbeddings, arguments: argparse.Namespace
) -> tuple[dict[str, Any], np.ndarray | None, dict[str, np.ndarray]]:
    """Measures what the set is for.

    Args:
        listed: the set.
        kind: its protocol.
        embeddings: its embeddings.
        arguments: `fars`, `fpirs`, `ranks`, `bootstrap` and `seed`.

    Returns:
        The measures of results.json; the scores of the pairs (P,) or None; and the arrays of curves.npz.

    Raises:
        DataError: nothing is left to compare.
    """
    # Every key is there, whatever is measured.
    keys = ("num_pairs", "num_genuine", "num_impostor", "eer", "eer_threshold", "eer_ci95", "auc", "tar_at_far")
    results: dict[str, Any] = dict.fromkeys([*keys, "bootstrap", "identification", "search_intervals"])
    results["notes"] = []
    scores, curves = None, {}
    if listed.galleries:
        found, curves = _measure_galleries(listed, kind, embeddings, arguments)
        results |= found
    if listed.leave_one_out:
        strangers = DistractorRows(embeddings, listed.distractors)
        probes, people = embeddings.of_entries(listed.probes), listed.probes.subjects
        people = np.unique(people, return_inverse=True)[1]
        options = arguments.fars, arguments.bootstrap, arguments.seed
        found, more = measure_against_strangers(probes, people, strangers, *options)
        results["notes"] += found.pop("notes")
        results |= found
        curves |= more
    if listed.pairs is not None:
        found, scores, more = _measure_pairs(listed, listed.pairs, embeddings, arguments)
        results["notes"] += found.pop("notes")
        results |= found
        curves |= more
    return results, scores, curves


def _measure_galleries(
    listed: ListedSet, kind: Kind, embeddings: SetEmbeddings, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Searches each gallery with all probes."""
    if not len(listed.probes):
        raise DataError(f"{listed.root}: no probes are left")
    probes = embeddings.of_entries(listed.probes)
    measured, curves, how = {}, {}, ""
    for name, gallery in listed.galleries.items():
        if not len(gallery):
            raise DataError(f"{listed.root}: nobody is left in gallery {name}")
        search = _search(listed, kind, embeddings, probes, name, gallery)
        result, people, precisions = search
        fpirs = arguments.fpirs if len(result.best_impostor_scores) else ()
        one = measure_search(result, fpirs, arguments.ranks, kind.within)
        if precisions is not None:
            one[PRECISION] = {"value": float(precisions.mean()) if len(precisions) else None, "ci95": None}
        how = add_search_intervals(one, result, people, arguments.bootstrap, arguments.seed, kind.within, precisions)
        measured[name] = one
        for key, array in identification_curves(result, within=kind.within).items():
            prefix, _, rest = key.partition("_")
            if len(array):
                curves["_".join(filter(None, (prefix, name, rest)))] = array
    mean = mean_of_galleries(list(measured.values()))
    if len(measured) == 1:  # the mean of one gallery is that gallery
        mean = {key: next(iter(measured.values()))[key] for key in mean}
    if kind.has_precision:
        mean[PRECISION] = next(iter(measured.values()))[PRECISION]
    notes = _notes_on_equal(listed, embeddings)
    return {"identification": {**measured, "mean": mean}, "search_intervals": how, "notes": notes}, curves


def _search(
    listed: ListedSet, kind: Kind, embeddings: SetEmbeddings, probes: np.ndarray, name: str, gallery: Entries
) -> tuple[SearchResult, ProbePeople, np.ndarray | None]:
    """Searches one gallery; returns the result, who the probes are of, and average precisions if they are measured."""
    together = join_text_arrays([gallery.subjects, listed.probes.subjects], listed.root)
    subjects = np.unique(together, return_inverse=True)[1]
    of_gallery, of_probes = subjects[: len(gallery)], subjects[len(gallery) :]
    entries = probes if listed.leave_one_out else embeddings.of_entries(gallery)
    mates = find_mates(probes, of_probes, entries, of_gallery)
    others: list[Others] = []
    if listed.leave_one_out:
        mates = mates.some(mates.probe != mates.entry)
    else:
        others.append(Others(HeldRows(entries), of_gallery))
    others.append(Others(DistractorRows(embeddings, listed.distractors)))

    # All mates where precision or each of them is asked for, else the best one of each probe.
    ranked = mates if kind.has_precision or listed.leave_one_out else mates.some(mates.best())
    before, best = rank_mates(probes, of_probes, ranked, others, name)
    chosen = ranked.best() if kind.has_precision else np.arange(len(ranked.probe))
    alone = np.ones(len(probes), bool)
    alone[mates.probe] = False
    alone &= not listed.leave_one_out
    result = SearchResult(ranked.scores[chosen], 1 + before[chosen], best[alone], _num_searched(listed, entries))
    precisions = average_precisions(ranked, before)[1] if kind.has_precision else None
    return result, ProbePeople(of_probes[ranked.probe[chosen]], of_probes[alone]), precisions


def _num_searched(listed: ListedSet, entries: np.ndarray) -> int:
    """Returns how many entries a probe is compared with: alone with the distractors, or the whole gallery."""
    return len(listed.distractors) + (1 if listed.leave_one_out else len(entries))


def _notes_on_equal(listed: ListedSet, embeddings: SetEmbeddings) -> list[str]:
    """Returns sentences about images that are embedded exactly as another one: the same photograph, mostly."""
    known = np.unique(np.concatenate([listed.probes.images, *(one.images for one in listed.galleries.values())]))
    among, strangers = embeddings.find_equal(known, listed.distractors)
    notes = []
    if among:
        notes.append(
            f"gallery and probe images embedded exactly as another one: {len(among):,}, the first {shown(among[0])}; "
            "one photograph twice, or a model that tells nothing apart"
        )
    if strangers:
        notes.append(
            f"distractors embedded exactly as a gallery or probe image: {len(strangers):,}, the first "
            f"{shown(strangers[0])}; people of the gallery are among the distractors, and push their own mates down"
        )
    return notes


def _measure_pairs(
    listed: ListedSet, pairs: ImagePairs, embeddings: SetEmbeddings, arguments: argparse.Namespace
) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Scores the pairs, 1:1."""
    images = np.unique(np.concatenate([np.unique(pairs.first), np.unique(pairs.second)]))
    first, second = (np.searchsorted(images, side).astype(np.int32) for side in (pairs.first, pairs.second))
    try:
        found, ranked = rank_pairs(embeddings.of_images(images), first, second, pairs.is_same, arguments.fars)
    except InputError as error:
        raise DataError(f"{listed.root}: of its pairs, {error}") from error
    measured = measure_verification(ranked, arguments.fars, "exact")
    scores = found.as_float64()
    if arguments.bootstrap:
        subjects = pairs.subjects[:, 0], pairs.subjects[:, 1]
        add_intervals(measured, ranked, scores, pairs.is_same, subjects, arguments.bootstrap, arguments.seed)
    measured["notes"] = notes_on_ties(ranked, measured)
    return measured, scores, verification_curves(ranked)
