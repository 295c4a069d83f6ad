"""Restates the usual data set of published training code: one record, one PIL image, one float tensor at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from facekd.data.datasets.record_pack import open_record_pack


class PerSampleDataset(Dataset):
    """Reads images as InsightFace's `MXFaceDataset` does, but through facekd's record reader."""

    def __init__(self, path: Path, flip: bool) -> None:
        self.pack = open_record_pack(path)
        steps = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])]
        )

    def __len__(self) -> int:
        return self.pack.num_images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        encoded, label = self.pack.read_image(index)
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        return self.transform(image), torch.tensor(label)
