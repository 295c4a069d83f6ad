"""Finds what is wrong with an IJB-style set and says what is left out: no faces are dropped silently.

Shapes: N images, F faces, T templates, P pairs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evaluation.ijb.protocol import TARGETS, IjbProtocol
from facekd.errors import DataError
from facekd.images.alignment import PLAUSIBLE_FIT, template_fit
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted
from facekd.verification.label_consistency import contradicted_impostors, join_by_genuine

OnMissing = Literal["fail", "drop"]
NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Problem:
    """Describes one kind of problem: with severity `drop` the data concerned is left out, with `note` it is kept."""

    kind: str
    count: int
    examples: tuple[str, ...]
    severity: Literal["drop", "note"]
    text: str


@dataclass(frozen=True)
class Kept:
    """Holds what is left of a protocol as bool masks; None if everything is."""

    faces: np.ndarray  # (F,)
    templates: np.ndarray  # (T,) those that have a face
    pairs: np.ndarray | None  # (P,)
    dropped: dict[str, int]


class Findings:
    """Collects problems as they are found, and which faces remain."""

    def __init__(self, protocol: IjbProtocol) -> None:
        self.protocol = protocol
        self.problems: list[Problem] = []
        self.keep_faces = np.ones(protocol.num_faces, bool)

    def drop_faces(self, kind: str, bad: np.ndarray, text: str) -> None:
        """Leaves out the faces of a bool mask (F,)."""
        if bad.any():
            faces = np.flatnonzero(bad)
            examples = tuple(self._face_name(int(face)) for face in faces[:NUM_EXAMPLES])
            self.problems.append(Problem(kind, len(faces), examples, "drop", text))
            self.keep_faces &= ~bad

    def drop_images(self, kind: str, images: np.ndarray, text: str) -> None:
        """Leaves out the faces of some images (rows of `image_names`)."""
        self.drop_faces(kind, np.isin(self.protocol.face_images, images), text)

    def note(self, kind: str, count: int, text: str, examples: Sequence[str] = ()) -> None:
        """Adds a remark that changes nothing; none if `count` is 0."""
        if count:
            self.problems.append(Problem(kind, count, tuple(examples), "note", text))

    def _face_name(self, face: int) -> str:
        image, ids = self.protocol.face_images[face], self.protocol.template_ids
        name = self.protocol.image_name(image) if image >= 0 else "an unclear image"
        return f"{name} of template {ids[self.protocol.face_templates[face]]}"


def find_problems(protocol: IjbProtocol, uses_images: bool, uses_detection_scores: bool) -> Findings:
    """Finds every problem that shows in the lists and in the file names of `loose_crop`.

    Args:
        protocol: the set.
        uses_images: whether a model will embed the images, which must then exist, with sensible landmarks.
        uses_detection_scores: whether faces will be weighted by the detector's scores.
    """
    findings = Findings(protocol)
    # Faces whose image or landmarks cannot be told, or that are listed twice.
    images = protocol.face_images
    unclear, unlisted = images < 0, images >= protocol.num_listed
    findings.drop_faces("unclear image", unclear, "their name has several lines of landmarks, and none can be told")
    findings.drop_faces("unlisted image", unlisted, "not in the list of landmarks and detector scores")
    listed = ~(unclear | unlisted)
    findings.drop_faces("repeated face", listed & _is_repeated(protocol), "listed twice in one template")
    _note_shared_images(findings, listed)
    _note_images_of_two_subjects(findings, listed)
    for remark in protocol.remarks:
        findings.note("lists", 1, remark)
    # Values that cannot be used: of faces that are listed.
    at = np.where(listed, images, 0)
    if uses_detection_scores:
        scores = protocol.detection_scores[at]
        bad = listed & ~(np.isfinite(scores) & (scores >= 0))
        findings.drop_faces("detector score", bad, "the detector's score is negative or no number")
        findings.note("detector score", int((listed & (scores == 0)).sum()), "detector score 0: the face has no weight")
    if uses_images:
        fit = template_fit(protocol.landmarks.astype(np.float64))[at]
        findings.drop_faces("landmarks", listed & (fit == 0), "landmarks not finite, or all in one place: no crop")
        odd = int((listed & (fit > 0) & (fit < PLAUSIBLE_FIT)).sum())
        findings.note("landmarks", odd, "unlike a face (left and right exchanged?); used for alignment all the same")
        missing = _missing_images(protocol, np.unique(images[listed]))
        findings.drop_images("missing image", missing, f"not in {protocol.root / 'loose_crop'}")
    _note_pairs_and_galleries(findings)
    _note_labels(findings)
    _check_counts(findings)
    return findings


def settle(findings: Findings, on_missing: OnMissing) -> Kept:
    """Fails with a list of all problems, or goes on without the data they concern.

    Raises:
        DataError: data has to be left out and `on_missing` is "fail"; or no face is left.
    """
    # A template without faces goes, and a pair with such a template.
    protocol = findings.protocol
    has_face = np.zeros(len(protocol.template_ids), bool)
    has_face[protocol.face_templates[findings.keep_faces]] = True
    pairs = None
    if not has_face.all():
        pairs = has_face[protocol.pair_first] & has_face[protocol.pair_second]
        if pairs.all():
            pairs = None
    # Count what that leaves out.
    lost = np.zeros(0, bool) if pairs is None else protocol.is_same[~pairs]
    used = _used_templates(protocol)
    dropped = {
        "faces": int((~findings.keep_faces).sum()),
        "templates": int((used & ~has_face).sum()),
        "pairs": len(lost),
        "genuine": int(lost.sum()),
        "impostor": int((~lost).sum()),
        "gallery_templates": sum(int((~has_face[g.templates]).sum()) for g in protocol.galleries.values()),
        "probe_templates": int((~has_face[protocol.probes.templates]).sum()) if protocol.probes else 0,
    }
    # Report, and stop if that was not allowed.
    counts = [problem for problem in findings.problems if problem.severity == "drop"]
    templates_lost = np.flatnonzero(used & ~has_face)
    if templates_lost.size:
        examples = tuple(str(protocol.template_ids[row]) for row in templates_lost[:NUM_EXAMPLES])
        text = "in the pair list or the 1:N files, without a face that can be used"
        counts.append(Problem("empty template", len(templates_lost), examples, "drop", text))
        findings.problems.append(counts[-1])
    if counts and on_missing == "fail":
        cost = describe_cost(protocol, dropped)
        first, *rest = map(text_of, counts)
        raise DataError(f"{protocol.root}: {first}", *rest, cost, "--on-missing drop continues without that data")
    if not findings.keep_faces.any():
        raise DataError(f"{protocol.root}: no face is left:", *map(text_of, counts))
    return Kept(findings.keep_faces, has_face, pairs, dropped)


def as_plain(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Returns the problems as plain values for JSON."""
    return [{**vars(problem), "examples": list(problem.examples)} for problem in problems]


def text_of(problem: Problem) -> str:
    """Describes a problem in one line for the terminal."""
    examples = f" ({', '.join(map(shown, problem.examples))}{', ...' if problem.count > len(problem.examples) else ''})"
    return f"{problem.kind}: {problem.count:,}, {problem.text}{examples if problem.examples else ''}"


def describe_cost(protocol: IjbProtocol, dropped: dict[str, int]) -> str:
    """Says in one sentence what is left out."""
    return (
        f"without them {dropped['faces']:,} of {counted(protocol.num_faces, 'face')}, "
        f"{counted(dropped['templates'], 'template')} and {dropped['pairs']:,} of "
        f"{counted(protocol.num_pairs, 'pair')} ({dropped['genuine']:,} genuine, {dropped['impostor']:,} impostor) "
        "are left out"
    )


def _used_templates(protocol: IjbProtocol) -> np.ndarray:
    """Returns bool (T,): which templates the pairs, the galleries or the probes name."""
    used = protocol.in_pairs.copy()
    for some in [*protocol.galleries.values(), *([protocol.probes] if protocol.probes else [])]:
        used[some.templates] = True
    return used


def _is_repeated(protocol: IjbProtocol) -> np.ndarray:
    """Returns bool (F,): faces that repeat an image within a template, all but the first."""
    key = protocol.face_images.astype(np.int64) * len(protocol.template_ids) + protocol.face_templates
    repeated = np.zeros(len(key), bool)
    if (key[1:] > key[:-1]).all():
        return repeated
    order = np.argsort(key, kind="stable")
    repeated[order[1:]] = key[order[1:]] == key[order[:-1]]
    return repeated


def _note_shared_images(findings: Findings, listed: np.ndarray) -> None:
    """Notes images that are listed in several templates."""
    counts = np.bincount(findings.protocol.face_images[listed], minlength=1)
    text = "in several templates, as the lists say; scores of one image with itself are 1"
    shared = np.flatnonzero(counts > 1)
    names = [findings.protocol.image_name(int(image)) for image in shared[:NUM_EXAMPLES]]
    findings.note("shared image", len(shared), text, names)


def _missing_images(protocol: IjbProtocol, wanted: np.ndarray) -> np.ndarray:
    """Returns those of the wanted images (rows) that have no file. Lists the folder: faster than asking for each."""
    folder = protocol.root / "loose_crop"
    try:
        with os.scandir(folder) as entries:
            present = {os.fsencode(entry.name) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        present = set()
    names = protocol.image_names[wanted].tolist()
    missing = [
        image
        for image, name in zip(wanted.tolist(), names, strict=True)
        if name not in present and (b"/" not in name or not protocol.image_path(image).exists())
    ]
    return np.array(missing, np.int64)


def _note_pairs_and_galleries(findings: Findings) -> None:
    """Notes pairs of one template, templates that are gallery and probe, and subjects with several entries."""
    protocol = findings.protocol
    itself = int(np.count_nonzero(protocol.pair_first == protocol.pair_second))
    findings.note(
        "pairs", itself, agreeing(itself, "compares a template with itself", "compare a template with itself")
    )
    if protocol.probes is None:
        return
    both = np.isin(protocol.probes.templates, np.concatenate([g.templates for g in protocol.galleries.values()]))
    num_both = int(both.sum())
    they_are = agreeing(
        num_both,
        "template is gallery and probe at once: it finds itself",
        "templates are gallery and probe at once: they find themselves",
    )
    findings.note("1:N files", num_both, they_are)
    for name, gallery in protocol.galleries.items():
        several = len(gallery) - len(np.unique(gallery.subjects))
        entries = agreeing(
            several, f"entry of gallery {name} is a further one", f"entries of gallery {name} are further ones"
        )
        findings.note("1:N files", several, f"{entries} of a subject; the best counts")


def published_counts(protocol: IjbProtocol) -> dict[str, int]:
    """Returns the counts of this set under the keys of `Target.counts`."""
    counts = {
        "num_images": protocol.num_listed,
        "num_templates": np.count_nonzero(np.bincount(protocol.face_templates)),
        "num_pairs": protocol.num_pairs,
        "num_genuine": np.count_nonzero(protocol.is_same),
    }
    counts["num_impostor"] = counts["num_pairs"] - counts["num_genuine"]
    if protocol.probes is not None:
        subjects = [gallery.subjects for gallery in protocol.galleries.values()]
        counts["num_gallery_subjects"] = len(np.unique(np.concatenate(subjects)))
        counts |= {f"num_gallery_{name}": len(gallery) for name, gallery in protocol.galleries.items()}
        counts["num_probes"] = len(protocol.probes)
    return counts


def is_published(protocol: IjbProtocol) -> bool:
    """Tells whether this is meant to be the published set: two of its three sizes agree."""
    expected, found = TARGETS[protocol.target].counts, published_counts(protocol)
    return sum(found[key] == expected[key] for key in ("num_images", "num_templates", "num_pairs")) >= 2


def _check_counts(findings: Findings) -> None:
    """Reports counts that differ from those of the published set."""
    protocol = findings.protocol
    expected, found = TARGETS[protocol.target].counts, published_counts(protocol)
    wrong = [
        f"{key} {found[key]:,} instead of {count:,}"
        for key, count in expected.items()
        if found.get(key, count) != count
    ]
    if wrong and is_published(protocol):
        text = f"this is {TARGETS[protocol.target].name}, but not as published: {'; '.join(wrong)}"
        findings.problems.append(Problem("counts", len(wrong), (), "drop", text))


def subjects_of_templates(protocol: IjbProtocol) -> tuple[np.ndarray, str]:
    """Returns the subject of each template, int32 (T,) from 0, and its source: `1:N files` or `genuine pairs`.

    If the 1:N files do not name every template of the pairs, or contradict the labels (see `find_problems`), templates
    joined by genuine pairs are one subject.
    """
    named = names_of_subjects(protocol)
    if named is not None:
        return np.unique(named, return_inverse=True)[1].astype(np.int32), "1:N files"
    count = len(protocol.template_ids)
    return join_by_genuine(protocol.pair_first, protocol.pair_second, protocol.is_same, count), "genuine pairs"


def names_of_subjects(protocol: IjbProtocol) -> np.ndarray | None:
    """Returns the subject id of each template by the 1:N files, int64 (T,); None as `subjects_of_templates` says."""
    named = _named_subjects(protocol)
    return named.subjects if named.names_all_pairs and not _contradicted_pairs(protocol, named).size else None


def people_of_templates(protocol: IjbProtocol) -> list[str] | None:
    """Returns the names of the subjects by the 1:N files; None where these do not say who all are."""
    named = names_of_subjects(protocol)
    return None if named is None else list(map(str, np.unique(named).tolist()))


@dataclass(frozen=True)
class _NamedSubjects:
    """Holds who the templates show by the 1:N files."""

    subjects: np.ndarray  # int64 (T,), 0 where there is no name
    has_name: np.ndarray  # bool (T,)
    names_all_pairs: bool  # every template of the pairs has one name
    conflicts: tuple[str, ...]  # templates that two files give to two subjects, in words


def _named_subjects(protocol: IjbProtocol) -> _NamedSubjects:
    subjects = np.zeros(len(protocol.template_ids), np.int64)
    has_name = np.zeros(len(subjects), bool)
    conflicts: list[str] = []
    for some in [*protocol.galleries.values(), *([protocol.probes] if protocol.probes else [])]:
        odd = has_name[some.templates] & (subjects[some.templates] != some.subjects)
        conflicts += [
            f"template {protocol.template_ids[template]}: subjects {subjects[template]} and {subject}"
            for template, subject in zip(some.templates[odd].tolist(), some.subjects[odd].tolist(), strict=True)
        ]
        subjects[some.templates] = np.where(odd, subjects[some.templates], some.subjects)
        has_name[some.templates] = True
    complete = not conflicts and bool(has_name[protocol.in_pairs].all())
    return _NamedSubjects(subjects, has_name, complete, tuple(conflicts))


def _contradicted_pairs(protocol: IjbProtocol, named: _NamedSubjects) -> np.ndarray:
    """Returns the rows of pairs whose label is not what the 1:N files say of its two templates."""
    first, second = protocol.pair_first, protocol.pair_second
    # As small numbers: there are millions of pairs.
    known, codes = np.unique(named.subjects, return_inverse=True)
    codes = codes.astype(np.uint16 if len(known) <= 1 << 16 else np.int32)
    agrees = (codes[first] == codes[second]) == protocol.is_same
    if not named.names_all_pairs:
        agrees |= ~(named.has_name[first] & named.has_name[second])
    return np.flatnonzero(~agrees)


def _note_labels(findings: Findings) -> None:
    """Notes labels of pairs, names of templates and shared images that contradict each other."""
    protocol = findings.protocol
    ids, kinds = protocol.template_ids, ("impostor", "genuine")
    pairs = (protocol.pair_first, protocol.pair_second)
    named = _named_subjects(protocol)
    if not named.has_name.any():
        # Only the labels themselves can tell.
        odd = contradicted_impostors(*pairs, protocol.is_same, len(ids))
        text = (
            f"of {protocol.num_pairs:,} "
            f"{agreeing(len(odd), 'is labelled impostor and compares', 'are labelled impostor and compare')} "
            "templates that genuine pairs join to one subject: some of these labels are wrong, and the error rates "
            "with them"
        )
        examples = [
            f"row {row + 1}: templates {ids[pairs[0][row]]} and {ids[pairs[1][row]]}" for row in odd[:NUM_EXAMPLES]
        ]
        findings.note("pair labels", len(odd), text, examples)
        return

    # Labels against the subjects of the 1:N files.
    odd = _contradicted_pairs(protocol, named)
    examples = []
    for row in odd[:NUM_EXAMPLES].tolist():
        first, second = (int(side[row]) for side in pairs)
        who = [int(named.subjects[first]), int(named.subjects[second])]
        shown = f"both of subject {who[0]}" if who[0] == who[1] else f"of subjects {who[0]} and {who[1]}"
        kind = kinds[int(protocol.is_same[row])]
        examples.append(f"row {row + 1}: templates {ids[first]} and {ids[second]}, {shown}, labelled {kind}")
    text = (
        f"of {counted(protocol.num_pairs, 'label')} {agreeing(len(odd), 'contradicts', 'contradict')} the subjects of "
        "the 1:N files; they are used as they are, so the error rates are wrong by as much"
    )
    findings.note("pair labels", len(odd), text, examples)

    # The 1:N files against each other and the pairs.
    text = "templates are given to two subjects by two 1:N files; the first is used for pairs"
    findings.note("1:N files", len(named.conflicts), text, named.conflicts[:NUM_EXAMPLES])
    unnamed = np.flatnonzero(protocol.in_pairs & ~named.has_name)
    text = "templates of the pairs have no subject in the 1:N files, so their labels cannot be checked"
    findings.note("1:N files", len(unnamed), text, [f"template {ids[row]}" for row in unnamed[:NUM_EXAMPLES]])


def _note_images_of_two_subjects(findings: Findings, listed: np.ndarray) -> None:
    """Notes images that are listed in templates of two subjects."""
    protocol = findings.protocol
    named = _named_subjects(protocol)
    known = listed & named.has_name[protocol.face_templates]
    images, subjects = protocol.face_images[known], named.subjects[protocol.face_templates[known]]
    order = np.lexsort((subjects, images))
    images, subjects = images[order], subjects[order]
    odd = np.unique(images[1:][(images[1:] == images[:-1]) & (subjects[1:] != subjects[:-1])])
    text = "in templates of two subjects, by the 1:N files: an image of a face shows one person"
    findings.note("shared image", len(odd), text, [protocol.image_name(int(image)) for image in odd[:NUM_EXAMPLES]])
