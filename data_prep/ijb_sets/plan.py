"""Plans an IJB-style set: its templates, media, galleries, probes and the pairs to compare; no files, no pixels.

A subject has one gallery template, in one of two galleries without common people, and any number of probe templates. A
template holds images of several media (a photo, or frames of one video). The 1:1 list compares gallery templates with
probe templates. Published counts: see `PUBLISHED`; NIST no longer distributes the sets, so sets of the same
shape are made here.

Shapes: M images (rows of the metadata), T templates, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from facekd.errors import DataError
from facekd.utils.wording import counted

IDS_PER_TEMPLATE = 8.13  # ids of IJB-C's 23,124 templates run to about 188,000: never an index
GALLERY_SHARE, MAX_GALLERY_IMAGES = 1 / 3, 8
PROBE_ROLE = 2


@dataclass(frozen=True)
class Counts:
    """Holds the size of a set.

    Attributes:
        images: M, rows of the metadata.
        galleries: number of subjects, and so of templates, of the two galleries.
        probes: number of probe templates.
        genuine, impostor: number of pairs in the 1:1 list.
    """

    images: int
    galleries: tuple[int, int]
    probes: int
    genuine: int
    impostor: int

    def scaled(self, fraction: float) -> Counts:
        """Returns the counts of a smaller set of the same shape; pairs shrink with the number of possible pairs."""
        first, second, probes = (max(round(number * fraction), 2) for number in (*self.galleries, self.probes))
        genuine = min(round(self.genuine * fraction), probes)
        possible = (first + second) * probes - probes
        share = self.impostor / (sum(self.galleries) * self.probes - self.probes)
        images = max(round(self.images * fraction), first + second + probes)
        return Counts(images, (first, second), probes, max(genuine, 1), max(round(possible * share), 1))


@dataclass(frozen=True)
class Release:
    """Holds how the release names its files, and its published size."""

    prefix: str
    galleries: tuple[str, str]
    counts: Counts


PUBLISHED = {
    "IJBC": Release("ijbc", ("G1", "G2"), Counts(469_375, (1_772, 1_759), 19_593, 19_557, 15_638_932)),
    # The release gives the 1,845 subjects of both galleries; 931 and 914 are the split of its lists.
    "IJBB": Release("ijbb", ("S1", "S2"), Counts(227_630, (931, 914), 10_270, 10_270, 8_000_000)),
}


@dataclass(frozen=True)
class IjbPlan:
    """Holds a set, ready to be written.

    Attributes:
        template_ids: int64 (T,), sparse and in no order.
        subject_ids: int64 (T,), the subject of each template.
        roles: int8 (T,): 0 and 1 for the two galleries, 2 for probes.
        templates: int64 (M,), position of each row's template in the arrays above.
        media_ids: int64 (M,); one id may occur in several templates of its subject, as in the release.
        sources: int64 (M,), the image of the source that each row shows; some may be left out, none is used twice.
        pairs: int64 (P, 2), positions of a gallery and a probe template.
        is_same: bool (P,).
    """

    template_ids: np.ndarray
    subject_ids: np.ndarray
    roles: np.ndarray
    templates: np.ndarray
    media_ids: np.ndarray
    sources: np.ndarray
    pairs: np.ndarray
    is_same: np.ndarray

    def __len__(self) -> int:
        """Returns the number of rows, M."""
        return len(self.templates)


def plan_of_images(
    labels: np.ndarray, seed: int = 0, largest_probe: int = 6, most_impostors: int | None = None
) -> IjbPlan:
    """Plans a set from images of known people: about a third of a person's images are gallery, the others probes.

    Args:
        labels: int (M,), person on each image of the source; a person with one image is in a gallery and in no probe.
        seed: random seed of all draws.
        largest_probe: largest number of images in a probe template; sizes are drawn evenly from 1 to it.
        most_impostors: largest number of impostor pairs in the 1:1 list; None takes all of gallery x probe.

    Raises:
        DataError: fewer than two people with two images: there would be no genuine or no impostor pair.
    """
    labels = np.asarray(labels)
    people, counts = np.unique(labels, return_counts=True)
    if (counts >= 2).sum() < 2:
        raise DataError(
            f"{counted(len(people), 'person')}, {int((counts >= 2).sum())} of them with two images or more; at least "
            "two such people are needed, one image for the gallery and one to compare with it"
        )
    generator = np.random.default_rng([seed % 2**63, 0x1B])

    # People with probes come first and are dealt to the two galleries in turn, so that each probe has a mate.
    order = generator.permutation(len(people))
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    gallery_of = np.empty(len(people), np.int8)
    gallery_of[order] = np.arange(len(people)) % 2

    # Each person's images: one gallery template, then probe templates of random sizes.
    subjects, roles, members = [], [], []
    for person, label in enumerate(people.tolist()):
        images = generator.permutation(np.flatnonzero(labels == label))
        in_gallery = max(min(round(len(images) * GALLERY_SHARE), MAX_GALLERY_IMAGES), 1)
        rest = images[in_gallery:]
        cuts = np.cumsum(generator.integers(1, largest_probe + 1, len(rest)))
        probes = np.split(rest, cuts[cuts < len(rest)]) if len(rest) else []
        subjects += [person] * (1 + len(probes))
        roles += [int(gallery_of[person])] + [PROBE_ROLE] * len(probes)
        members += [images[:in_gallery], *probes]
    templates = np.repeat(np.arange(len(members)), [len(images) for images in members])
    plan = _with_ids(
        generator, np.array(subjects), np.array(roles, np.int8), templates, np.concatenate(members).astype(np.int64)
    )

    # Each probe is compared with its mate; impostors are drawn, or all.
    num_genuine = int((plan.roles == PROBE_ROLE).sum())
    possible = (len(plan.roles) - num_genuine) * num_genuine - num_genuine
    wanted = possible if most_impostors is None else min(most_impostors, possible)
    return _with_pairs(generator, plan, num_genuine, wanted)


def plan_of_counts(counts: Counts, seed: int = 0) -> IjbPlan:
    """Plans a set of given counts, for drawn embeddings: template sizes are long-tailed, as with frames of video.

    Args:
        counts: see `PUBLISHED` and `Counts.scaled`.
        seed: random seed of all draws.

    Raises:
        DataError: counts that contradict each other.
    """
    num_subjects, num_templates = sum(counts.galleries), sum(counts.galleries) + counts.probes
    if counts.images < num_templates or counts.genuine > counts.probes:
        raise DataError(f"{counts}: needs at least one image per template, and at most one genuine pair per probe")
    generator = np.random.default_rng([seed % 2**63, 0x1C])

    # One gallery template per subject, and probes of random subjects.
    subjects = np.concatenate([np.arange(num_subjects), generator.integers(num_subjects, size=counts.probes)])
    order = generator.permutation(num_subjects)
    roles = np.full(num_templates, PROBE_ROLE, np.int8)
    roles[order] = np.arange(num_subjects) >= counts.galleries[0]

    # Template sizes are long-tailed; the rest follows from subjects and sizes.
    weights = generator.lognormal(0, 1.4, num_templates)
    sizes = 1 + generator.multinomial(counts.images - num_templates, weights / weights.sum())
    by_subject = np.argsort(subjects, kind="stable")
    subjects, roles, sizes = subjects[by_subject], roles[by_subject], sizes[by_subject]
    templates = np.repeat(np.arange(num_templates), sizes)
    plan = _with_ids(generator, subjects, roles, templates, np.arange(counts.images))
    return _with_pairs(generator, plan, counts.genuine, counts.impostor)


def _with_ids(
    generator: np.random.Generator, subjects: np.ndarray, roles: np.ndarray, templates: np.ndarray, sources: np.ndarray
) -> IjbPlan:
    """Adds media, ids and the order of the rows. `subjects` must be grouped, `templates` ascending."""
    num_templates, num_rows = len(subjects), len(templates)
    new_template = np.append(True, templates[1:] != templates[:-1])
    # A medium is a run of rows; some continue in the subject's next template, as videos do.
    starts = new_template | (generator.random(num_rows) < 0.4)
    same_subject = np.append(False, subjects[templates[1:]] == subjects[templates[:-1]])
    goes_on = new_template & same_subject & (generator.random(num_rows) < 0.1)
    media = np.cumsum(starts & ~goes_on) - 1
    media_ids = _sparse_ids(generator, int(media[-1]) + 1, 1.3)[media]
    template_ids = _sparse_ids(generator, num_templates, IDS_PER_TEMPLATE)
    subject_ids = _sparse_ids(generator, int(subjects.max()) + 1, 2.0)[subjects]
    # Rows go by template id, which scatters people as in the release.
    order = np.argsort(template_ids[templates], kind="stable")
    empty = np.empty((0, 2), np.int64)
    return IjbPlan(
        template_ids,
        subject_ids,
        roles,
        templates[order],
        media_ids[order],
        sources[order],
        empty,
        np.empty(0, bool),
    )


def _sparse_ids(generator: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Returns `count` different ids from 1 on, in random order."""
    return generator.permutation(int(count * spread) + 1)[:count].astype(np.int64) + 1


def _with_pairs(generator: np.random.Generator, plan: IjbPlan, num_genuine: int, num_impostor: int) -> IjbPlan:
    """Draws the 1:1 list, ordered by the id of the gallery template, then by that of the probe."""
    # Genuine pairs: which probes are compared with their mates.
    by_id = np.argsort(plan.template_ids)
    gallery = by_id[plan.roles[by_id] != PROBE_ROLE]
    probes = by_id[plan.roles[by_id] == PROBE_ROLE]
    compared = np.ones(len(probes), bool)  # the release leaves a few probes out
    compared[generator.permutation(len(probes))[num_genuine:]] = False
    mates: dict[int, list[int]] = {}
    for position, subject in enumerate(plan.subject_ids[probes].tolist()):
        mates.setdefault(subject, []).append(position)

    # Impostor pairs: shared out over the gallery templates.
    possible = np.array([len(probes) - len(mates.get(subject, ())) for subject in plan.subject_ids[gallery].tolist()])
    if num_impostor > possible.sum():
        most = int(possible.sum())
        raise DataError(
            f"{counted(num_impostor, 'impostor pair was', 'impostor pairs were')} asked for, and only "
            f"{counted(most, 'is', 'are')} possible"
        )
    wanted = _share_out(num_impostor, possible)
    pairs, is_same = [], []
    for template, count, subject in zip(gallery.tolist(), wanted.tolist(), plan.subject_ids[gallery], strict=True):
        own = np.array(mates.get(int(subject), []), np.int64)
        others = np.delete(np.arange(len(probes)), own)
        if count < len(others):
            others = generator.permutation(others)[:count]
        own = own[compared[own]]
        chosen = np.concatenate([own, others])
        kind = np.arange(len(chosen)) < len(own)
        order = np.argsort(chosen)
        pairs.append(np.stack([np.full(len(chosen), template), probes[chosen[order]]], axis=1))
        is_same.append(kind[order])
    return replace(plan, pairs=np.concatenate(pairs), is_same=np.concatenate(is_same))


def _share_out(total: int, most: np.ndarray) -> np.ndarray:
    """Returns whole numbers that sum to `total`, in proportion to `most` and never above it."""
    ends = np.floor(np.cumsum(most) * (total / most.sum()) + 1e-9).astype(np.int64)
    ends[-1] = total
    return np.diff(ends, prepend=0)
