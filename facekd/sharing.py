"""Classifier sharing: which classifier belongs to whom, taken from where, and that it stays as it was.

"It's All in the Head: Representation Knowledge Distillation through Classifier Sharing" (arXiv:2201.06945). In TH-KD
the student's embeddings also pass through the teacher's classifier; in SH-KD a teacher is trained under the student's.
Either way a classifier changes hands frozen, and both parties must mean the same person by the same class number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from facekd.checkpoint import CheckpointError, load_checkpoint, resolve_checkpoint
from facekd.classifier import HeadConfig, MarginClassifier
from facekd.data.datasets import FaceDataset
from facekd.data.label_map import is_same_label_map


@dataclass(frozen=True)
class SharedHead:
    """A classifier that was trained or computed elsewhere.

    Attributes:
        weight_CD: (C, D) float32, the class centres.
        source: where it came from, for messages.
    """

    weight_CD: torch.Tensor
    source: str

    @property
    def embedding_size(self) -> int:
        """D, the embeddings it takes."""
        return self.weight_CD.shape[1]

    def build(self, config: HeadConfig, embedding_size: int) -> MarginClassifier:
        """A classifier with these centres and the margin and scale of `config`, frozen: no gradient, no decay.

        Args:
            config: margin and scale.
            embedding_size: of the embeddings that will be given to it.

        Raises:
            CheckpointError: it takes embeddings of another size.
        """
        num_classes, own_size = self.weight_CD.shape
        if own_size != embedding_size:
            raise CheckpointError(
                f"{self.source}: its classifier takes embeddings of {own_size}, the backbone gives {embedding_size}: "
                f"set backbone.embedding_size to {own_size}"
            )
        head = MarginClassifier(embedding_size, num_classes, config)
        with torch.no_grad():
            head.weight.copy_(self.weight_CD)
        return head.requires_grad_(False)


def load_shared_head(path: str | os.PathLike[str], dataset: FaceDataset) -> SharedHead:
    """Read the classifier of a checkpoint, and make sure that its classes are those of the data.

    Args:
        path: a checkpoint or the folder of a run, or the file that `facekd rebuild-head` writes.
        dataset: what will be trained on.

    Raises:
        CheckpointError: no classifier in it, or one of other identities.
    """
    file = resolve_checkpoint(path)
    content = load_checkpoint(file)
    weight = content.get("head", {}).get("weight")
    if weight is None:
        raise CheckpointError(
            f"{file}: holds no classifier. A model known only as a backbone gets one from its data: "
            "`facekd rebuild-head MODEL --data PACK --output head.pt`"
        )
    if content.get("config", {}).get("head", {}).get("kind") == "linear":
        raise CheckpointError(
            f"{file}: its classifier is a linear one, which has no class centres on the sphere; share one trained with "
            "head.kind = 'margin', or rebuild one: `facekd rebuild-head MODEL --data PACK --output head.pt`"
        )
    if len(weight) != dataset.num_classes:
        raise CheckpointError(
            f"{file}: its classifier knows {len(weight):,} identities, {dataset.name} has {dataset.num_classes:,}. "
            "Teacher and student must share identities: train on the data it was trained on"
        )
    if not is_same_label_map(content, dataset):
        raise CheckpointError(
            f"{file}: its classifier was made on other data than {dataset.name}: as many identities, but other images, "
            "names or another numbering. Class n must be the same person in both: train on the same pack"
        )
    if not torch.isfinite(weight).all() or (weight.norm(dim=1) == 0).any():
        raise CheckpointError(f"{file}: its classifier has a centre that is zero or not finite; rebuild or retrain it")
    return SharedHead(weight.float(), str(file))
