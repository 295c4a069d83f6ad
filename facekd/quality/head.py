"""Predicts from an embedding how well its image can be recognised: a small network behind a frozen backbone.

What it sees is the direction of the embedding and the logarithm of its length. The length alone tells much in networks
with a margin classifier, and so a head starts from what `--quality norm` uses. Shapes: B images, D embedding values, H
hidden values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 64
SHORTEST = 1e-12  # a length below it counts as this: an embedding of zeros has no direction


class QualityHead(nn.Module):
    """Computes qualities between 0 and 1, higher is better, from embeddings before they are normalised.

    Args:
        embedding_size: D.
        hidden: H.
    """

    def __init__(self, embedding_size: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.hidden = nn.Linear(embedding_size + 1, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Returns the qualities (B,), float32."""
        return self.predict(self.features(embedding_BD)).sigmoid()

    def features(self, embedding_BD: Tensor) -> Tensor:
        """Returns what the layers see, (B, D + 1): the direction, and the logarithm of the length."""
        # In operators that every runtime reads alike, see `facekd.export.onnx_graph.with_options`.
        embedding_BD = embedding_BD.float()
        length_B1 = (embedding_BD * embedding_BD).sum(1, keepdim=True).sqrt().clamp_min(SHORTEST)
        return torch.cat([embedding_BD / length_B1, length_B1.log()], 1)

    def predict(self, features: Tensor) -> Tensor:
        """Returns the log-odds (B,) of the qualities, for features (B, D + 1)."""
        return self.output(self.hidden(features).relu()).squeeze(1)


class ScoredBackbone(nn.Module):
    """Keeps a backbone and its quality head together; called, it embeds as the backbone does.

    Attributes:
        backbone: images to embeddings (B, D).
        quality_head: embeddings to qualities (B,).
        embedding_size: D.
    """

    def __init__(self, backbone: nn.Module, quality_head: QualityHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.quality_head = quality_head
        self.embedding_size: int = quality_head.hidden.in_features - 1

    def forward(self, images: Tensor) -> Tensor:
        """Returns the embeddings (B, D)."""
        return self.backbone(images)
