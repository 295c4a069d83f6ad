"""Adds a backbone: four strided convolutions and a mean over the last map.

facekd train configs/debug.yaml --plugin examples/plain_backbone.py --backbone.name plain
"""

import itertools

import torch
from torch import nn

from facekd.backbones import Backbone


class PlainNet(Backbone):
    """Computes embeddings by plain strided convolutions; `width` multiplies their channels."""

    def __init__(
        self, name: str, embedding_size: int = 512, image_size: int = 112, width: float = 1.0, dropout: float = 0.0
    ) -> None:
        super().__init__(name, embedding_size, image_size, width)
        channels = [3, *(max(8, int(count * width)) for count in (32, 64, 128, 256))]
        self.layers = nn.Sequential()
        for before, after in itertools.pairwise(channels):
            self.layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            self.layers.append(nn.BatchNorm2d(after))
            self.layers.append(nn.PReLU(after))
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(channels[-1], embedding_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.check_images(images)
        return self.embedding(self.dropout(self.layers(images).mean((2, 3))))


BACKBONES = {"plain": PlainNet}
