"""Compares at the end of a run the centres in its classifier with the means of its classes' embeddings, on a sample.

What a shared classifier hands on is who resembles whom. Learned rows hold little of that after a short training, so it
is measured here, before anybody shares them. The measures are in `facekd/distillation/centre_geometry.py`.

Shapes: n images of the sample, k classes of it, D embedding size, M sub-centres.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facekd.data.datasets import FaceDataset
from facekd.distillation.centre_geometry import SHORTEST, cosine_correlation, effective_dimension
from facekd.distributed import broadcast_from_main, gather_rows
from facekd.errors import FacekdError
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.training.logbook import Logbook, kinds_logged_at
from facekd.training.logbook.centre_maps import write_centre_maps
from facekd.training.state import TrainingState
from facekd.training.validation import evaluated_embedder
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import counted

MAX_CLASSES = 256  # 32,640 pairs of them
IMAGES_EACH = 8
LOW_CORRELATION = 0.5
FEWEST_TO_WARN = 20  # classes: the correlation over the pairs of fewer is mostly chance
IMAGES_CHUNK = 256


def measure_class_centres(state: TrainingState, logbook: Logbook) -> None:
    """Logs and says how the classifier's rows and the class means compare, unless the configuration turns it off.

    `log.jsonl` gets `centres`, see `compare_centres`, and the folder `centres.npz`, see `write_centre_maps`. A
    correlation below 0.5 is a warning. Does nothing in a run without a classifier, and where a run that is complete has
    it.
    """
    head, is_main = state.recognizer.head, state.world.is_main
    is_sharded = getattr(head, "shards", None) is not None
    if not (state.config.diagnostics and isinstance(head, MarginClassifier | LinearClassifier)):
        return
    if not (state.dataset.has_labels and (is_main or is_sharded)):
        return
    is_logged = "centres" in kinds_logged_at(state.folder, state.images_seen)
    if broadcast_from_main(is_logged, state.world) if is_sharded else is_logged:
        return

    # With a sharded classifier every process gives its rows; the main process alone embeds images.
    images = sample_images(state.dataset)
    classes = np.unique(state.dataset.labels[images])
    rows, teacher_rows = rows_of_classes(head, classes), rows_of_teacher(state, classes)
    if not is_main:
        return
    try:
        kept, centres = centres_of_sample(state, images, rows, teacher_rows)
    except FacekdError as error:  # such as a bad image that the run has not come to: it is complete without
        logbook.say(f"warning: the classifier cannot be compared with the class means: {error}")
        return
    values = {"num_classes": len(kept), "num_images": len(images), **compare_centres(centres)}
    try:
        write_centre_maps(state.folder, classes[kept], centres)
    except OSError as error:
        logbook.say(f"warning: the picture of who resembles whom cannot be kept: {error}")
    logbook.record("centres", state.images_seen, values)  # the mark that this is done, so the last
    logbook.say(_in_words(values))
    if warning := _find_warning(state, values):
        logbook.say(warning)


def sample_images(dataset: FaceDataset) -> NDArray[np.int64]:
    """Chooses up to 8 images of each of up to 256 classes, (n,) ascending, evenly spread and so the same each time."""
    labels = dataset.labels
    counts = np.bincount(labels, minlength=dataset.num_classes)
    present = np.flatnonzero(counts)
    classes = present[spread_evenly(len(present), MAX_CLASSES)]
    of_chosen = np.flatnonzero(np.isin(labels, classes))
    by_class = of_chosen[np.argsort(labels[of_chosen], kind="stable")]
    parts = np.split(by_class, np.cumsum(counts[classes])[:-1])
    return np.sort(np.concatenate([part[spread_evenly(len(part), IMAGES_EACH)] for part in parts]))


def rows_of_classes(head: MarginClassifier | LinearClassifier, classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the rows (k, M D) of ascending classes; of a sharded classifier on every process, which all call this."""
    shards, first, stop = getattr(head, "shards", None), 0, len(head.weight)
    if shards is not None:
        first, stop = shards.start, shards.stop
    own = classes[(classes >= first) & (classes < stop)] - first
    rows = head.weight.detach()[own].float().cpu().numpy()
    return rows if shards is None else gather_rows(rows, shards.world)


def rows_of_teacher(state: TrainingState, classes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Returns the rows (k, E) of the teacher's classifier, as `rows_of_classes` does.

    None without a teacher's classifier, where it is the run's only one, and where it has several centres for each
    class: nothing says which of them stands for the class.
    """
    head = getattr(state.recognizer, "teacher_head", None)
    if not isinstance(head, MarginClassifier | LinearClassifier) or head is state.recognizer.head:
        return None
    return rows_of_classes(head, classes) if _sub_centers(head) == 1 else None


def centres_of_sample(
    state: TrainingState,
    images: NDArray[np.int64],
    rows: NDArray[np.float32],
    teacher_rows: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Returns the centres of a sample's classes: rows of the classifier, and means of embeddings.

    The embeddings are those of the model that is exported. For a margin classifier, embeddings and centres count by
    their directions. A linear one does not change if all rows or all embeddings move together, so both are taken from
    their means. A class without a direction, such as one whose embeddings cancel out, is left out.

    Args:
        state: the run.
        images: (n,), numbers of the images.
        rows: (k, M D), the classifier's rows of the classes that these images have, ascending.
        teacher_rows: (k, E), those of the teacher's classifier.

    Returns:
        Which of the k classes are left, and for those `rows` and `means` (D), and `teacher` (E) if it was given.

    Raises:
        FacekdError: an embedding is not finite, or an image cannot be read.
    """
    is_linear = isinstance(state.recognizer.head, LinearClassifier)
    means = _class_means(state, images, is_linear)
    centres = {"rows": _nearest_centres(rows, means, _sub_centers(state.recognizer.head)), "means": means}
    if teacher_rows is not None:
        centres["teacher"] = teacher_rows.astype(np.float64)
    if is_linear:
        centres = {name: each - each.mean(axis=0) for name, each in centres.items()}
    kept = np.all([np.linalg.norm(each, axis=1) > SHORTEST for each in centres.values()], axis=0)
    return np.flatnonzero(kept), {name: each[kept] for name, each in centres.items()}


def compare_centres(centres: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Compares the centres that `centres_of_sample` returns.

    Returns:
        `correlation`, see `cosine_correlation`, of rows and means; `rows_dimension` and `means_dimension`, see
        `effective_dimension`; `teacher_rows_correlation` and `teacher_means_correlation`, the same correlation with the
        teacher's rows. What cannot be computed is left out.
    """
    if not len(centres["means"]):
        return {}
    values = {
        "correlation": cosine_correlation(centres["rows"], centres["means"]),
        "rows_dimension": effective_dimension(centres["rows"]),
        "means_dimension": effective_dimension(centres["means"]),
    }
    if "teacher" in centres:
        for name in ("rows", "means"):
            values[f"teacher_{name}_correlation"] = cosine_correlation(centres["teacher"], centres[name])
    return {name: value for name, value in values.items() if value is not None}


def _class_means(state: TrainingState, images: NDArray[np.int64], is_linear: bool) -> NDArray[np.float64]:
    """Embeds images, not augmented, and returns the mean embedding (k, D) of each of their classes, ascending."""
    embedder = evaluated_embedder(state)
    classes, place = np.unique(state.dataset.labels[images], return_inverse=True)
    sums, counts = np.zeros((len(classes), 0)), np.zeros(len(classes))
    for start in range(0, len(images), IMAGES_CHUNK):
        part = slice(start, start + IMAGES_CHUNK)
        pixels, labels = state.dataset.load(images[part])
        embeddings = embedder.embed(pixels).astype(np.float64)
        if not is_linear:
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), SHORTEST)
        # An image that stands in for an unreadable one may show somebody else.
        own = labels == classes[place[part]]
        sums = sums if sums.size else np.zeros((len(classes), embeddings.shape[1]))
        np.add.at(sums, place[part][own], embeddings[own])
        counts += np.bincount(place[part][own], minlength=len(classes))
    return sums / np.maximum(counts, 1)[:, None]


def _nearest_centres(rows: NDArray[np.float32], means: NDArray[np.float64], sub_centers: int) -> NDArray[np.float64]:
    """Returns of each class's sub-centres in a row (k, M D) the one that its mean (k, D) is nearest to."""
    centres = rows.astype(np.float64).reshape(len(rows), sub_centers, -1)
    lengths = np.maximum(np.linalg.norm(centres, axis=2), SHORTEST)
    best = (np.einsum("kmd,kd->km", centres, means) / lengths).argmax(axis=1)
    return centres[np.arange(len(rows)), best]


def _sub_centers(head: torch.nn.Module) -> int:
    return head.config.sub_centers if isinstance(head, MarginClassifier) else 1


def _in_words(values: dict[str, Any]) -> str:
    sample = f"{counted(values['num_classes'], 'class')}, {counted(values['num_images'], 'image')}"
    found = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))
    return f"classifier and class means ({sample}): {found or 'they have no directions'}"


def _find_warning(state: TrainingState, values: dict[str, Any]) -> str:
    """Returns what to do about a classifier that does not resemble its class means; empty if it does."""
    correlation = values.get("correlation", 1.0)
    if correlation >= LOW_CORRELATION or values["num_classes"] < FEWEST_TO_WARN:
        return ""
    found = f"(correlation {correlation:.2f}, below {LOW_CORRELATION:g})"
    if state.recognizer.head.weight.requires_grad:  # type: ignore[union-attr]
        return (
            f"warning: the classifier's rows say little of who resembles whom {found}. Before another network shares "
            "it (SH-KD), train longer, or share class means: `facekd rebuild-head` with --power 0.25, in a pipeline "
            "`--shared_head means`"
        )
    return (
        f"warning: the class means do not lie as the frozen classifier has them {found}: train longer, or share a "
        "classifier that a network can follow, such as class means (`facekd rebuild-head` with --power 0.25)"
    )
