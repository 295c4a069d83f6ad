"""Reads a cohort of embeddings for score normalisation, and refuses one that contains people of the evaluated set."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.sets.embedding_rows import NpyRows
from evaluation.sets.given_embeddings import read_named_embeddings
from facekd.commands.command_line import whole_number
from facekd.errors import DataError, InputError
from facekd.faces.gallery import is_gallery, read_gallery
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.utils.alike_names import composed
from facekd.utils.foreign import some_of
from facekd.utils.wording import agreeing, counted
from facekd.verification.score_norm import SCORE_NORMS, ScoreNorm, cohort_statistics, normalise_scores
from facekd.verification.scores import unit_rows

DEFAULT_TOP = 200
SAME_IMAGE = 1 - 1e-6  # a cosine that only one photograph has with itself


@dataclass(frozen=True)
class Cohort:
    """Holds the embeddings of a cohort.

    Attributes:
        path: the file.
        sha256: its digest.
        embeddings: float64 (M, D) of unit length.
        people: the names of the people, as far as they are known; empty if none is.
        fingerprint: of the model; None if it is not known.
        flip: whether the embeddings of the mirror images were added; None if it is not known.
    """

    path: Path
    sha256: str
    embeddings: np.ndarray
    people: frozenset[str]
    fingerprint: str | None = None
    flip: bool | None = None


def read_cohort(path: Path) -> Cohort:
    """Reads a gallery of `facekd embed`, a .npz of `names` (PERSON/IMAGE) and `embeddings`, or a .npy of embeddings.

    Raises:
        DataError: the file is none of these, or an embedding has no direction.
    """

    def refuse(rows: np.ndarray) -> DataError:
        return DataError(f"{path}: embedding {rows[0]} has no direction (all zeros, or not finite); leave it out")

    with unchanged(path):
        digest = sha256_of_file(path)
        if is_gallery(path):
            gallery = read_gallery(path)
            people = frozenset(gallery.people.tolist()) - {""}
            embeddings = unit_rows(gallery.embeddings.astype(np.float64), refuse)
            return Cohort(path, digest, embeddings, people, gallery.origin.fingerprint, gallery.origin.flip)
        if path.suffix == ".npz":
            given, places = read_named_embeddings(path, False)
            people = frozenset(name.rpartition("/")[0] for name in places) - {""}
            return Cohort(path, digest, unit_rows(given.plain.astype(np.float64), refuse), people)
        rows = NpyRows(path, None, False, None, "one for each image of the cohort")
        plain, _ = rows.read(0, rows.shape[0])
        return Cohort(path, digest, unit_rows(plain.astype(np.float64), refuse), frozenset())


@dataclass
class Normaliser:
    """Normalises the scores of a set by a cohort; `notes` collects what is to be known about it.

    Attributes:
        kind: how, a key of `SCORE_NORMS`.
        cohort: the cohort.
        top: how many of the highest scores count; None for all.
    """

    kind: ScoreNorm
    cohort: Cohort
    top: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def score(self) -> str:
        """Returns the name of the score, the entry `score` of a protocol."""
        return f"{self.kind}-norm"

    @property
    def text(self) -> str:
        """Returns the protocol in words, to be added to that of the cosine."""
        count = len(self.cohort.embeddings)
        some = "" if self.top is None else f", the {min(self.top, count):,} highest of each image"
        return f"{SCORE_NORMS[self.kind]} by {counted(count, 'image')} of {self.cohort.path.name}{some}"

    @property
    def about(self) -> dict[str, Any]:
        """Returns the entry `score_norm` of results.json."""
        return {
            "kind": self.kind,
            "cohort": str(self.cohort.path),
            "sha256": self.cohort.sha256,
            "num_images": len(self.cohort.embeddings),
            "num_people": len(self.cohort.people) or None,
            "top": self.top,
        }

    def describe(self, content: dict[str, Any]) -> None:
        """Says in the content of results.json that its scores are normalised: in the protocol and the notes."""
        protocol = content["protocol"]
        content["protocol"] = {**protocol, "text": f"{protocol['text']}; {self.text}", "score": self.score}
        content["notes"] = [*content["notes"], *self.notes]
        content["score_norm"] = self.about

    def check(self, model: Mapping[str, Any] | None, flip: bool) -> None:
        """Refuses a cohort that another model embedded, or with the mirror images where they are not added.

        Raises:
            DataError: as far as the cohort's file says how it was made.
        """
        path, cohort = self.cohort.path, self.cohort
        if cohort.fingerprint is not None and model is not None and cohort.fingerprint != model["fingerprint"]:
            raise DataError(
                f"{path}: was embedded by another model, or with another preprocessing (--resize is part of it); embed "
                "the cohort again by `facekd embed` with this one"
            )
        if cohort.flip is not None and cohort.flip != flip:
            how = "with" if cohort.flip else "without"
            raise DataError(
                f"{path}: was embedded {how} the mirror images, and the set is not; embed it again with "
                f"{'--flip' if flip else '--no-flip'}"
            )

    def check_people(self, people: Iterable[str] | None, what: str) -> None:
        """Refuses a cohort that contains people of the set, and notes where nobody can tell.

        Args:
            people: who is in the set; None if it is not known.
            what: the set, for messages.

        Raises:
            DataError: naming the people.
        """
        if people is None or not self.cohort.people:
            side = "the cohort" if not self.cohort.people else what
            self.notes.append(
                f"{self.cohort.path.name}: whether it contains people of the set is not known: {side} names nobody"
            )
            return
        inside = set(map(composed, people))
        if _are_numbers(inside) != _are_numbers(self.cohort.people):
            one, other = ("the cohort", what) if _are_numbers(self.cohort.people) else (what, "the cohort")
            self.notes.append(
                f"{self.cohort.path.name}: whether it contains people of the set is not known: they go by numbers in "
                f"{one}, and by names in {other}"
            )
        if shared := sorted(person for person in self.cohort.people if composed(person) in inside):
            raise DataError(
                f"{self.cohort.path}: {len(shared):,} of its {counted(len(self.cohort.people), 'person')} "
                f"{agreeing(len(shared), 'is', 'are')} in {what}, too: {some_of(shared)}; a cohort is of other "
                "people, so leave them out"
            )

    def apply(self, scores: np.ndarray, embeddings: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Returns the normalised scores (P,).

        Args:
            scores: (P,) cosines.
            embeddings: (N, D) of any length; those that are in no pair may be anything.
            first, second: integer (P,), rows of `embeddings`.

        Raises:
            DataError: the cohort does not fit the embeddings, or contains images of the set.
        """
        used = np.unique(np.concatenate([first, second]))
        place = np.zeros(len(embeddings), np.int64)
        place[used] = np.arange(len(used))
        try:
            rows = unit_rows(embeddings[used].astype(np.float64), None)
            statistics = cohort_statistics(rows, self.cohort.embeddings, self.top)
        except InputError as error:
            raise DataError(f"{self.cohort.path}: {error}") from error
        if (equal := np.flatnonzero(statistics.highest >= SAME_IMAGE)).size:
            raise DataError(
                f"{self.cohort.path}: {counted(equal.size, 'image of the set has', 'images of the set have')} an "
                f"embedding that is in the cohort, the first image {used[equal[0]]}; a cohort is of other images and "
                "people"
            )
        return normalise_scores(self.kind, scores, place[first], place[second], statistics)


def _are_numbers(people: Collection[str]) -> bool:
    """Tells whether people go by numbers, as those of a pack do, which say nothing beside names."""
    return all(person.isdecimal() for person in people)


def add_norm_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--score-norm`, `--cohort` and `--cohort-top`; `check_norm_options` checks that they fit together."""
    add = parser.add_argument
    add(
        "--score-norm",
        choices=tuple(SCORE_NORMS),
        help="normalise each score by those of its images with a cohort: z (of the first image), s (mean of both), as "
        "(adaptive: of the highest scores alone); off by default",
    )
    add(
        "--cohort",
        metavar="FILE",
        help="embeddings of other people for --score-norm, made as those of the set are: a gallery of `facekd embed`, "
        "a .npz of names and embeddings, or a .npy (M, D)",
    )
    add(
        "--cohort-top",
        type=whole_number(2, 10**9),
        metavar="K",
        help=f"how many of the highest scores count for --score-norm as (default: {DEFAULT_TOP})",
    )


def check_norm_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser if the options contradict each other."""
    if (arguments.score_norm is None) != (arguments.cohort is None):
        parser.error("--score-norm needs a --cohort, and --cohort is for --score-norm: give both or none")
    if arguments.cohort_top is not None and arguments.score_norm != "as":
        parser.error("--cohort-top is about --score-norm as")
    if arguments.score_norm is not None and arguments.thresholds_from is not None:
        parser.error("--thresholds-from has thresholds of cosines, and --score-norm makes other scores: leave one out")


def read_normaliser(arguments: argparse.Namespace) -> Normaliser | None:
    """Reads the cohort that `--cohort` names; None without `--score-norm`.

    Raises:
        DataError: see `read_cohort`.
    """
    if arguments.score_norm is None:
        return None
    top = (arguments.cohort_top or DEFAULT_TOP) if arguments.score_norm == "as" else None
    return Normaliser(arguments.score_norm, read_cohort(Path(arguments.cohort)), top)
