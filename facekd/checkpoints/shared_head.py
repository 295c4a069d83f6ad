"""Shares a trained classifier: takes it from a checkpoint, checks that it fits the data, and keeps it frozen.

"It's All in the Head: Representation Knowledge Distillation through Classifier Sharing" (arXiv:2201.06945). In TH-KD
the student's embeddings also pass through the teacher's classifier; in SH-KD a teacher is trained under the student's.
Teacher and student must use the same identity labels; facekd verifies this.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.head_shards import read_rows
from facekd.checkpoints.models import MIN_WEIGHT_BYTES
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.class_counts import has_equal_classes
from facekd.data.datasets.cleaning import labels_before_cleaning
from facekd.data.datasets.identity_map import identities_of, is_same_identity_map, stored_images_sha256
from facekd.distributed import World
from facekd.errors import CheckpointError
from facekd.head.class_scores import centre_columns
from facekd.head.classifier import STATISTICS, LinearClassifier, MarginClassifier, build_classifier
from facekd.head.config import HeadConfig
from facekd.utils.alike_names import composed
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted


@dataclass(frozen=True)
class SharedHead:
    """Holds a classifier that was trained or computed elsewhere.

    Attributes:
        weight_CD: (C, D) float32, the class centres; (C, M D) with M sub-centres.
        source: file that it came from, for messages.
        kind: "margin" (embeddings are compared by angle) or "linear" (a plain layer).
        bias_C: (C,) float32; None without a bias.
        sub_centers: M, how many centres each class has.
    """

    weight_CD: torch.Tensor
    source: str
    kind: str = "margin"
    bias_C: torch.Tensor | None = None
    sub_centers: int = 1

    @property
    def embedding_size(self) -> int:
        """Returns D, the size of the embeddings that it takes."""
        return self.weight_CD.shape[1] // self.sub_centers

    @property
    def fingerprint(self) -> str:
        """Hashes all centres and the bias, regardless of how they are sharded later."""
        digest = hashlib.sha256()
        if self.sub_centers > 1:
            digest.update(f"{self.sub_centers} sub-centres".encode())
        for part in (self.weight_CD, self.bias_C):
            if part is not None:
                digest.update(part.contiguous().numpy().data)  # no copy: the centres of many millions are tens of GB
        return digest.hexdigest()

    def build(
        self, config: HeadConfig, embedding_size: int, world: World | None = None
    ) -> MarginClassifier | LinearClassifier:
        """Builds a frozen classifier (no gradient, no decay) with these centres and the margin and scale of `config`.

        Args:
            config: margin and scale; a linear classifier takes nothing from it.
            embedding_size: size of the embeddings that the backbone gives.
            world: processes to shard the classes over, if `config` says so.

        Raises:
            CheckpointError: embedding size, kind, sub-centres or bias of the classifier differ from what `config` asks
                for.
        """
        self.check_fit(config, embedding_size)
        if self.kind == "linear":
            config = replace(config, bias=self.bias_C is not None)

        # Copy the centres of this process into a new classifier.
        head = build_classifier(config, embedding_size, len(self.weight_CD), world)
        shards = getattr(head, "shards", None)
        with torch.no_grad():
            head.weight.copy_(self.weight_CD if shards is None else shards.own(self.weight_CD))
            if self.bias_C is not None:
                assert isinstance(head, LinearClassifier) and head.bias is not None
                head.bias.copy_(self.bias_C)
        return head.requires_grad_(False)

    def check_fit(self, config: HeadConfig, embedding_size: int) -> None:
        """Checks that it is a classifier of the kind and size that a config asks for.

        Raises:
            CheckpointError: embedding size, kind, sub-centres or bias differ.
        """
        if self.kind != config.kind:
            raise CheckpointError(
                f"{self.source}: its classifier is a {self.kind} one, head.kind is {config.kind!r}, and neither can "
                "replace the other: a margin classifier compares angles, a linear one adds up. Set head.kind to "
                f"{self.kind!r}, or share a classifier trained with head.kind = {config.kind!r}"
            )
        if self.sub_centers != config.sub_centers:
            dropping = ", or keep one of each class by `facekd drop-sub-centers`" if config.sub_centers == 1 else ""
            raise CheckpointError(
                f"{self.source}: its classifier has {counted(self.sub_centers, 'centre')} for each class, "
                f"head.sub_centers is {config.sub_centers}: set head.sub_centers to {self.sub_centers}{dropping}"
            )
        if self.embedding_size != embedding_size:
            raise CheckpointError(
                f"{self.source}: its classifier takes embeddings of {self.embedding_size}, the backbone gives "
                f"{embedding_size}: set backbone.embedding_size to {self.embedding_size}"
            )
        if config.bias is not None and config.bias != (self.bias_C is not None):
            has = "has no" if self.bias_C is None else "has a"
            raise CheckpointError(
                f"{self.source}: its classifier {has} bias, head.bias is {config.bias}: remove head.bias"
            )


def load_shared_head(path: str | os.PathLike[str], dataset: FaceDataset) -> SharedHead:
    """Reads the classifier of a checkpoint and checks that its classes are those of the data.

    Args:
        path: a checkpoint or the folder of a run, or the file that `facekd rebuild-head` writes.
        dataset: the training set.

    Raises:
        CheckpointError: the file has no classifier, or one with other identities or unusable values.
    """
    head, checkpoint = read_classifier(path)
    require_same_people(head, checkpoint, dataset)
    return head


def require_same_people(head: SharedHead, checkpoint: Checkpoint, dataset: FaceDataset) -> None:
    """Checks that class n of a classifier is the same person as label n of the data.

    Raises:
        CheckpointError: it is not, or the checkpoint does not say whose classes it has.
    """
    file, count = head.source, len(head.weight_CD)
    if count != dataset.num_classes:
        raise CheckpointError(
            f"{file}: its classifier has {counted(count, 'identity')}, {dataset.name} has {dataset.num_classes:,}. "
            "Teacher and student must share identities: train on the same data"
        )
    _require_classes_of_someone(head, checkpoint, dataset)
    if not is_same_identity_map(checkpoint.identity_map, dataset):
        raise CheckpointError(
            f"{file}: its classifier was made from other data than {dataset.name}: as many "
            "identities, but other images, names or numbers. Class n must be the same person in both: train on the "
            "same pack"
        )
    _warn_of_unknown_people(head, checkpoint, dataset)


def _warn_of_unknown_people(head: SharedHead, checkpoint: Checkpoint, dataset: FaceDataset) -> None:
    """Adds a warning to the data where its labels do not show that its people are those of a classifier.

    How many images each person has tells sets apart, unless all have as many; then other images may be other people.
    """
    names = identities_of(dataset)
    has_names = checkpoint.identities_sha256 is not None and names is not None and not _are_numbers(names)
    if has_names or checkpoint.images_sha256 is None or not has_equal_classes(dataset.labels):
        return
    if checkpoint.images_sha256 != stored_images_sha256(dataset):
        dataset.warnings.append(
            f"{head.source}: its classifier was trained on other images than those of {dataset.name}. Both number as "
            "many people, with equally many images each, and name them by numbers at most: nobody can tell whether "
            "class n is the same person in both. If they are not the same people, what is learnt from it is noise"
        )


def _are_numbers(names: Sequence[str]) -> bool:
    """Tells whether names are numbers, as of a pack that was unpacked without a list: they tell nobody apart."""
    return all(name.isdecimal() for name in names)


def read_classifier(path: str | os.PathLike[str]) -> tuple[SharedHead, Checkpoint]:
    """Reads the classifier of a checkpoint, with the checkpoint, which says whose classes it has.

    Args:
        path: a checkpoint or the folder of a run, or the file that `facekd rebuild-head` writes.

    Raises:
        CheckpointError: the file has no classifier, or one with unusable values.
    """
    # The class centres, from the file or from the folder beside it.
    file = resolve_checkpoint(path)
    checkpoint = read_checkpoint(file)
    head = checkpoint.head or {}
    weight, bias, kind = head.get("weight"), head.get("bias"), checkpoint.head_kind
    if checkpoint.head_shards is not None:
        weight = read_rows(file, checkpoint.head_shards)["weight"]
    if weight is None:
        raise CheckpointError(
            f"{file}: holds no classifier. Compute one for a backbone from its training data: "
            "`facekd rebuild-head MODEL --data PACK --output head.pt`"
        )

    # Nobody can learn from broken centres.
    check_classifier(file, checkpoint, weight)
    if not (torch.isfinite(weight).all() and (bias is None or torch.isfinite(bias).all())):
        raise CheckpointError(f"{file}: its classifier has values that are not finite; rebuild or retrain it")
    count = checkpoint.sub_centers or 1
    if kind == "margin" and any((centre_CD.norm(dim=1) == 0).any() for centre_CD in centre_columns(weight, count)):
        raise CheckpointError(f"{file}: its classifier has a centre that is zero; rebuild or retrain it")
    return SharedHead(weight.float(), str(file), kind, None if bias is None else bias.float(), count), checkpoint


def check_classifier(file: Path, checkpoint: Checkpoint, weight: torch.Tensor) -> None:
    """Checks that a stored classifier has the shape of one, with as many classes as the checkpoint says.

    Args:
        file: the checkpoint's file, for messages.
        checkpoint: its contents.
        weight: the class centres, from the file or from the folder beside it.

    Raises:
        CheckpointError: it has not.
    """
    kind, count = checkpoint.head_kind, len(weight) if weight.ndim else 0
    shapes: dict[str, Any] = {"weight": tuple(weight.shape) if weight.ndim == 2 and weight.numel() else "(C, D)"}
    shapes |= {"bias": (count,)} if kind == "linear" else dict.fromkeys(STATISTICS, ())
    for name, value in {**(checkpoint.head or {}), "weight": weight}.items():
        is_number = value.is_floating_point() and value.dtype.itemsize >= MIN_WEIGHT_BYTES
        is_number &= value.layout == torch.strided
        if not is_number or tuple(value.shape) != shapes.get(name):
            found = f"'head.{shown(name)}' is {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            wanted = f"numbers of shape {shapes[name]}" if name in shapes else f"no such tensor in a {kind} classifier"
            raise CheckpointError(f"{file}: damaged: its {found}, expected {wanted}")
    sub_centers = checkpoint.sub_centers or 1
    if weight.shape[1] % sub_centers or (kind == "linear" and sub_centers > 1):
        raise CheckpointError(
            f"{file}: damaged: a row of its {kind} classifier has {counted(weight.shape[1], 'number')}, which "
            f"{agreeing(weight.shape[1], 'is', 'are')} not the {counted(sub_centers, 'centre')} that its "
            "'sub_centers' says"
        )
    if checkpoint.num_classes not in (None, count):
        raise CheckpointError(
            f"{file}: damaged: its classifier has {counted(count, 'class')}, and its 'num_classes' says "
            f"{checkpoint.num_classes:,}"
        )


def _require_classes_of_someone(head: SharedHead, checkpoint: Checkpoint, dataset: FaceDataset) -> None:
    """Refuses a classifier that was imported without the data that it was trained on: its classes could be anybody."""
    if checkpoint.labels_sha256 is None and checkpoint.identities is None:
        raise CheckpointError(
            f"{head.source}: does not say whose classes its classifier has; import the model again with `--data "
            f"{dataset.name}`, if it was trained on that"
        )


def find_same_people(head: SharedHead, checkpoint: Checkpoint, dataset: FaceDataset) -> torch.Tensor:
    """Finds for each class of the data the class of the same person in a stored classifier.

    The same data has the same classes, and a pack that `facekd data clean` made says which it had before. Other data is
    compared by the names of the people, where both have names.

    Args:
        head: the stored classifier.
        checkpoint: where it comes from.
        dataset: the training set.

    Returns:
        (C,) int64: for each label of the data the row of the stored classifier; -1 where it does not know the person.

    Raises:
        CheckpointError: the checkpoint does not say whose classes it has, or has nobody of the data.
    """
    _require_classes_of_someone(head, checkpoint, dataset)
    if is_same_identity_map(checkpoint.identity_map, dataset) and len(head.weight_CD) == dataset.num_classes:
        _warn_of_unknown_people(head, checkpoint, dataset)
        return torch.arange(dataset.num_classes)

    # The same pack, cleaned.
    before = labels_before_cleaning(dataset, checkpoint.labels_sha256)
    if before is not None and before.max() < len(head.weight_CD):
        return torch.from_numpy(before)

    # Other data: only names tell who is who.
    stored, wanted = checkpoint.identities, identities_of(dataset)
    if stored is None or wanted is None:
        lacking = head.source if stored is None else dataset.name
        raise CheckpointError(
            f"{head.source}: its classifier was trained on other data than {dataset.name}, and {lacking} does not name "
            "its people, so nobody can be found again. Leave out head.weights to start with fresh class centres"
        )
    if len(stored) != len(head.weight_CD):
        raise CheckpointError(
            f"{head.source}: damaged: it names {counted(len(stored), 'person')}, and its classifier has "
            f"{len(head.weight_CD):,}"
        )
    row_of = {composed(name): row for row, name in enumerate(stored)} | {name: row for row, name in enumerate(stored)}
    rows = [row_of.get(name, row_of.get(composed(name), -1)) for name in wanted]
    found = torch.tensor(rows, dtype=torch.int64)
    if (found < 0).all():
        raise CheckpointError(
            f"{head.source}: its classifier knows nobody of {dataset.name} by name (its first is {shown(stored[0])!r}, "
            f"theirs {shown(wanted[0])!r}). Leave out head.weights to start with fresh class centres"
        )
    known = [name for name, row in zip(wanted, rows, strict=True) if row >= 0]
    if _are_numbers(known) and checkpoint.images_sha256 != stored_images_sha256(dataset):
        dataset.warnings.append(
            f"{head.source}: the {counted(len(known), 'person')} of {dataset.name} that its classifier knows "
            f"{agreeing(len(known), 'is', 'are')} found by numbers (the first is {shown(known[0])}), and it learnt "
            "from other images: if these numbers stand for other people there, leave out head.weights"
        )
    return found
