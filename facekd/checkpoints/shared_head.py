"""Shares a trained classifier: takes it from a checkpoint, checks that it fits the data, and keeps it frozen.

"It's All in the Head: Representation Knowledge Distillation through Classifier Sharing" (arXiv:2201.06945). In TH-KD
the student's embeddings also pass through the teacher's classifier; in SH-KD a teacher is trained under the student's.
Teacher and student must use the same identity labels; facekd verifies this.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

import torch

from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.head_shards import read_rows
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import is_same_identity_map
from facekd.distributed import World
from facekd.errors import CheckpointError
from facekd.head.classifier import LinearClassifier, MarginClassifier, build_classifier
from facekd.head.config import HeadConfig


@dataclass(frozen=True)
class SharedHead:
    """Holds a classifier that was trained or computed elsewhere.

    Attributes:
        weight_CD: (C, D) float32, the class centres.
        source: file that it came from, for messages.
        kind: "margin" (embeddings are compared by angle) or "linear" (a plain layer).
        bias_C: (C,) float32; None without a bias.
    """

    weight_CD: torch.Tensor
    source: str
    kind: str = "margin"
    bias_C: torch.Tensor | None = None

    @property
    def embedding_size(self) -> int:
        """Returns D, the size of the embeddings that it takes."""
        return self.weight_CD.shape[1]

    @property
    def fingerprint(self) -> str:
        """Hashes all centres and the bias, regardless of how they are sharded later."""
        digest = hashlib.sha256()
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
            CheckpointError: embedding size, kind or bias of the classifier differ from what `config` asks for.
        """
        # The stored classifier must fit the configuration.
        num_classes, own_size = self.weight_CD.shape
        if self.kind != config.kind:
            raise CheckpointError(
                f"{self.source}: its classifier is a {self.kind} one, head.kind is {config.kind!r}, and neither can "
                "replace the other: a margin classifier compares angles, a linear one adds up. Set head.kind to "
                f"{self.kind!r}, or share a classifier trained with head.kind = {config.kind!r}"
            )
        if own_size != embedding_size:
            raise CheckpointError(
                f"{self.source}: its classifier takes embeddings of {own_size}, the backbone gives {embedding_size}: "
                f"set backbone.embedding_size to {own_size}"
            )
        if config.bias is not None and config.bias != (self.bias_C is not None):
            has = "has no" if self.bias_C is None else "has a"
            raise CheckpointError(
                f"{self.source}: its classifier {has} bias, head.bias is {config.bias}: remove head.bias"
            )
        if self.kind == "linear":
            config = replace(config, bias=self.bias_C is not None)

        # Copy the centres of this process into a new classifier.
        head = build_classifier(config, embedding_size, num_classes, world)
        shards = getattr(head, "shards", None)
        with torch.no_grad():
            head.weight.copy_(self.weight_CD if shards is None else shards.own(self.weight_CD))
            if self.bias_C is not None:
                assert isinstance(head, LinearClassifier) and head.bias is not None
                head.bias.copy_(self.bias_C)
        return head.requires_grad_(False)


def load_shared_head(path: str | os.PathLike[str], dataset: FaceDataset) -> SharedHead:
    """Reads the classifier of a checkpoint and checks that its classes are those of the data.

    Args:
        path: a checkpoint or the folder of a run, or the file that `facekd rebuild-head` writes.
        dataset: the training set.

    Raises:
        CheckpointError: the file has no classifier, or one with other identities or unusable values.
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

    # Class n must be the same person in the checkpoint and in the data.
    if len(weight) != dataset.num_classes:
        raise CheckpointError(
            f"{file}: its classifier has {len(weight):,} identities, {dataset.name} has {dataset.num_classes:,}. "
            "Teacher and student must share identities: train on the same data"
        )
    if checkpoint.labels_sha256 is None:
        raise CheckpointError(
            f"{file}: does not say whose classes its classifier has; import the model again with `--data "
            f"{dataset.name}`, if it was trained on that"
        )
    if not is_same_identity_map(checkpoint.identity_map, dataset):
        raise CheckpointError(
            f"{file}: its classifier was made from other data than {dataset.name}: as many "
            "identities, but other images, names or numbers. Class n must be the same person in both: train on the "
            "same pack"
        )

    # A student cannot learn from broken centres.
    if not (torch.isfinite(weight).all() and (bias is None or torch.isfinite(bias).all())):
        raise CheckpointError(f"{file}: its classifier has values that are not finite; rebuild or retrain it")
    if kind == "margin" and (weight.norm(dim=1) == 0).any():
        raise CheckpointError(f"{file}: its classifier has a centre that is zero; rebuild or retrain it")
    return SharedHead(weight.float(), str(file), kind, None if bias is None else bias.float())
