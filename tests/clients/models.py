"""Makes what the clients are tried with: faces, two networks, their exported files, and torch's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import write_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.cli import main
from facekd.embedder import open_embedder

SIZE, EMBEDDING_SIZE, NUM_FACES = 112, 512, 24
PREPROCESSING = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}


class Form(NamedTuple):
    """Describes one exported file: the network, the words of `facekd export`, and what a client has to know of it."""

    backbone: str
    words: str
    raw: str = ""  # layout of raw pixels
    batch: int = 0  # the fixed number of images; 0 means any
    least_cosine: float = 0.9999  # to what facekd itself computes
    most_error: float = 1e-3

    @property
    def is_reduced(self) -> bool:
        """Tells whether the file has fewer bits, so that facekd's own embeddings of the file are compared with."""
        return "--precision" in self.words


FORMS = {
    "default": Form("mobilefacenet", ""),
    "native": Form("mobilefacenet", "--prelu native"),
    "opset 11": Form("mobilefacenet", "--opset 11"),
    "batch 1": Form("mobilefacenet", "--batch 1", batch=1),
    "unit norm": Form("mobilefacenet", "--normalize"),
    "nhwc bytes": Form("mobilefacenet", "--input uint8-nhwc", raw="nhwc"),
    "nchw bytes": Form("mobilefacenet", "--input uint8-nchw", raw="nchw"),
    "all inside": Form("mobilefacenet", "--opset 11 --batch 1 --normalize --flip --input uint8-nhwc", "nhwc", 1),
    "IR-18": Form("iresnet18", ""),
    "IR-18 native": Form("iresnet18", "--prelu native"),
    # Random weights bear bytes badly. Runtimes round them differently, too.
    "fp16": Form("mobilefacenet", "--precision fp16", least_cosine=0.999, most_error=0.05),
    "int8 weights": Form("mobilefacenet", "--precision int8-weights --keep-anyway"),
    "int8": Form(
        "mobilefacenet",
        "--precision int8 --keep-anyway --calibrate {folder}/generated/train",
        least_cosine=0.97,
        most_error=0.3,
    ),
}


def make_all(folder: Path) -> None:
    """Writes `faces.npy`, uint8 RGB (N, 112, 112, 3), and for each form `NAME.onnx` and torch's `NAME.npy` (N, D).

    For a file of fewer bits, `NAME.npy` has what facekd computes with it.
    """
    # Faces of four times as many people as are compared: statistics of the batch norms need more than the trial.
    words = f"--identities {4 * NUM_FACES} --images-per-identity 1 --pairs 0 --workers 0"
    run(f"data synthesize --layout folders --output {folder / 'generated'} {words}")
    files = sorted((folder / "generated" / "train").rglob("*.jpg"))
    faces = np.stack([cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files])
    np.save(folder / "faces.npy", faces[:NUM_FACES])

    # One checkpoint for each network, one file for each form.
    for name in sorted({form.backbone for form in FORMS.values()}):
        write_checkpoint(folder / f"{name}.pt", settled_network(name, faces))
    for name, form in FORMS.items():
        checkpoint = folder / f"{form.backbone}.pt"
        run(f"export {checkpoint} --output {file_of(folder, name)} {form.words.format(folder=folder)}")
        model = file_of(folder, name) if form.is_reduced else checkpoint
        np.save(file_of(folder, name).with_suffix(".npy"), truth_of(form, model, faces[:NUM_FACES]))


def truth_of(form: Form, model: Path, faces: np.ndarray) -> np.ndarray:
    """Returns the embeddings (N, D) that a form must give for faces, uint8 RGB (N, S, S, 3)."""
    embedder = open_embedder(model, device="cpu")
    truth = embedder.embed(faces)
    if "--flip" in form.words:
        truth = (truth + embedder.embed(faces[:, :, ::-1])) / 2
    if "--normalize" in form.words:
        truth = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    return truth


def file_of(folder: Path, form: str) -> Path:
    """Returns the ONNX file of a form; its name has no blanks, which some converters cannot take."""
    return folder / f"{form.replace(' ', '_')}.onnx"


def settled_network(name: str, faces: np.ndarray) -> Checkpoint:
    """Returns a checkpoint of random weights whose batch norms have the statistics of faces, uint8 RGB (N, S, S, 3)."""
    arguments = {"name": name, "embedding_size": EMBEDDING_SIZE, "image_size": SIZE}
    torch.manual_seed(0)
    network = build_backbone(**arguments)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.6)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = None  # the mean of all batches
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    pixels = (torch.from_numpy(faces).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        for batch in pixels.split(32):
            network(batch)
    return Checkpoint(config={"backbone": arguments}, preprocessing=PREPROCESSING, backbone=network.state_dict())


def run(words: str) -> None:
    """Runs a facekd command in this process; SystemExit if it fails."""
    if status := main(words.split()):
        raise SystemExit(f"facekd {words}: status {status}")
