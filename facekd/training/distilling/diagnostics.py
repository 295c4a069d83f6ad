"""Reports at the end of a distillation how far student and teacher are apart, in numbers and in one picture.

Three things are compared: the classifiers, class by class; and on a sample of training images the class that each
network puts first, and their embeddings. The measures are pure functions in `facekd/distillation/diagnostics.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from facekd.data.loading.loader import Batch, make_loader
from facekd.data.loading.sampler import PositionSampler
from facekd.distillation.diagnostics import (
    HeadComparison,
    compare_classifiers,
    embedding_similarity,
    relation_similarity,
)
from facekd.distributed import broadcast_from_main, copy_buffers_from_main, gather_rows
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.images.model_input import to_model_input
from facekd.pages.figures import draw_histogram, new_figure, save_figure
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.distiller import Distiller
from facekd.training.logbook import kinds_logged_at
from facekd.training.state import TrainingState
from facekd.utils.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from facekd.training.logbook import Logbook

SAMPLE = 512  # images; a second of a small network on a CPU
PICTURE = "diagnostics.png"


def diagnose(state: TrainingState, logbook: Logbook) -> None:
    """Logs, prints and draws how student and teacher compare, unless the configuration turns it off.

    `log.jsonl` gets `heads` (cosines class by class, if both classifiers exist and have one shape) and `agreement`
    (share of images with the same first class, cosine between the embeddings, similarity of the relations between
    images). The run's folder gets `diagnostics.png`. Does nothing where a run that is complete has all of them.
    """
    assert isinstance(state.config, DistillConfig)
    assert isinstance(state.recognizer, Distiller)
    # With a sharded classifier every process knows only some of the classes, so all of them take part.
    is_sharded = bool(state.recognizer.sharded_heads)
    if not state.config.diagnostics or not (state.world.is_main or is_sharded):
        return
    logged, is_drawn = kinds_logged_at(state.folder, state.images_seen), (state.folder / PICTURE).exists()
    if is_sharded:
        logged, is_drawn = broadcast_from_main((logged, is_drawn), state.world)
    if is_drawn and logged & {"heads", "agreement"}:
        return
    if is_sharded:
        copy_buffers_from_main(state.recognizer.backbone, state.world)

    # Numbers, for the log and the terminal; those that a killed run has logged are not logged again. The picture comes
    # last and says that all is there, so one of a shorter run goes first.
    if state.world.is_main:
        (state.folder / PICTURE).unlink(missing_ok=True)
    heads = compare_heads(state.recognizer)
    if heads is not None and "heads" not in logged:
        logbook.record("heads", state.images_seen, heads.scalars())
        logbook.say(f"student's and teacher's classifier, class by class: {_in_words(heads.scalars())}")
    values, cosine_B = compare_on_images(state)
    if values and "agreement" not in logged:
        logbook.record("agreement", state.images_seen, values)
        logbook.say(f"student and teacher on {counted(values['num_images'], 'training image')}: {_in_words(values)}")

    # Histograms.
    if state.world.is_main and (heads is not None or cosine_B is not None):
        save_figure(draw(None if heads is None else heads.cosine_per_class, cosine_B), state.folder / PICTURE)


def compare_heads(recognizer: Distiller) -> HeadComparison | None:
    """Compares the student's own classifier with the teacher's; None unless both exist and have one shape.

    Of several centres for each class, nothing says which of the student's belongs to which of the teacher's.
    """
    own, teacher = recognizer.head, recognizer.teacher_head
    if not recognizer.owns_head or teacher is None:
        return None
    assert isinstance(own, MarginClassifier | LinearClassifier)
    has_several = any(isinstance(head, MarginClassifier) and head.config.sub_centers > 1 for head in (own, teacher))
    if own.weight.shape != teacher.weight.shape or has_several:
        return None
    biases = (getattr(head, "bias", None) for head in (own, teacher))
    shards = getattr(own, "shards", None)

    def every(cosine_C: Tensor) -> Tensor:
        values = cosine_C.cpu().numpy()
        return torch.from_numpy(values if shards is None else gather_rows(values, shards.world))

    return compare_classifiers(own.weight, teacher.weight, *biases, every=every)


@torch.no_grad()
def compare_on_images(state: TrainingState) -> tuple[dict[str, Any], Tensor | None]:
    """Compares student and teacher on the first images of the run.

    Returns:
        Values for the log, none if no loss asks the teacher for embeddings; and the cosines (B,) between the
        embeddings, None if their sizes differ and there is no projection.
    """
    recognizer = state.recognizer
    assert isinstance(recognizer, Distiller)
    # Embeddings of a sample, and the share of images that both classify alike.
    was_training = recognizer.training
    recognizer.eval()
    rows, agreed = [], []
    for batch in _sample(state):
        embedded = _embed(state, batch)
        if embedded is None:
            break
        rows.append(embedded)
        if recognizer.teacher_head is not None:  # batch by batch: logits (B, C) of many classes are large
            student_BD, projected_BE, teacher_BE = embedded
            head, taught = recognizer.head, recognizer.teacher_head
            own = first_class(head, student_BD) if recognizer.owns_head else first_class(taught, projected_BE)
            agreed.append(float((own == first_class(taught, teacher_BE)).double().mean()))
    recognizer.train(was_training)
    if not rows:
        return {}, None
    # Similarities; the cosine only where both embeddings have one size.
    student, projected, teacher = (torch.cat(parts) for parts in zip(*rows, strict=True))
    values: dict[str, Any] = {"num_images": len(student)}
    if agreed:
        values["agreement"] = sum(agreed) / len(agreed)  # all batches are of one size
    if len(student) > 1:
        values["relation_similarity"] = relation_similarity(student, teacher)
    if projected.shape != teacher.shape:
        return values, None
    cosine_B = embedding_similarity(projected, teacher).cpu()
    return {**values, "embedding_cosine": float(cosine_B.mean())}, cosine_B


def first_class(head: nn.Module, embedding_BD: Tensor) -> Tensor:
    """Returns (B,) the class that a classifier puts first; for a sharded one, among the classes of all processes."""
    shards = getattr(head, "shards", None)
    if shards is None or shards.world.size == 1:
        return head(embedding_BD).argmax(1)
    # Each process finds its best class, then the best of these wins.
    assert isinstance(head, MarginClassifier)
    padded = nn.functional.pad(head.cosine(embedding_BD), (0, 1), value=-2.0)  # a process may have no class
    best_B, place_B = padded.max(1)
    best_PB, class_PB = shards.gather(best_B[None]), shards.gather(place_B[None] + shards.start)
    return class_PB.gather(0, best_PB.argmax(0, keepdim=True))[0]


def _sample(state: TrainingState) -> list[Batch]:
    """Loads the first images of the run in a few batches; how many depends on the data set alone, not on the method."""
    config = state.config
    size = min(64, len(state.dataset))
    count = max(1, min(SAMPLE, len(state.dataset)) // size)
    sampler = PositionSampler(config.data.make_order(state.dataset, config.seed), size, total_images=count * size)
    batches = iter(make_loader(state.dataset, sampler, config.augmentation, config.seed, workers=0))
    return [next(batches) for _ in range(count)]


def _embed(state: TrainingState, batch: Batch) -> tuple[Tensor, Tensor, Tensor] | None:
    """Embeds a batch.

    Returns:
        (B, D) the student's embeddings, (B, E) the same projected for the teacher's classifier, and (B, E) the
        teacher's; None if the teacher gives no embeddings.
    """
    recognizer, config, device = state.recognizer, state.config, state.world.device
    assert isinstance(recognizer, Distiller)
    _, _, *teacher = recognizer.targets(batch)
    if not teacher:
        return None
    recognizer.check_targets()
    images = to_model_input(batch.images.to(device), batch.flip.to(device), config.data.mean, config.data.std)
    student_BD = recognizer.backbone(images).float()
    projected_BE = student_BD if recognizer.projection is None else recognizer.projection(student_BD)
    return student_BD, projected_BE, teacher[0].float()


def _in_words(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))


def draw(cosine_C: Tensor | None, cosine_B: Tensor | None) -> Figure:
    """Draws histograms of the cosines between student and teacher, of those that were computed.

    Args:
        cosine_C: between their class centres.
        cosine_B: between their embeddings of the same images.
    """
    shown = [
        (f"{what}, {counted(len(values), one)}", values)
        for what, one, values in (("classifiers", "class", cosine_C), ("embeddings", "image", cosine_B))
        if values is not None
    ]
    figure, all_axes = new_figure((5 * len(shown), 3.6), columns=len(shown))
    for axes, (title, values) in zip(all_axes, shown, strict=True):
        # The margin is for a shared classifier, where every cosine is 1.
        draw_histogram(axes, values.numpy(), title, "cosine, student and teacher", "number", margin=0.01)
    return figure
