"""Measures `facekd embed` on JPEGs of aligned faces beside a bare loop of onnxruntime, and beside usual loops.

    bare      an onnxruntime session over float batches that are ready: nothing is read, decoded or normalised
    facekd    what `facekd embed` does after opening the model: list, read, decode, normalise, embed, write the gallery
    get_feat  as insightface's `get_feat`, an image a call: cv2.imread, cv2.dnn.blobFromImages, session.run
    dnn       the same with OpenCV's own network, cv2.dnn.readNetFromONNX

Batch size and threads of `facekd` are those that `--batch-size auto` finds; `bare` has as many threads, which share
each call, and the fastest of three batch sizes. All take turns in one process,
so that other load on the machine falls on all of them; ratios are of the same turn. By the processor's time a ratio
says how much more work is done, and by the clock what of it overlaps with the model. Embeddings are compared first.

    python benchmarks/embed_throughput.py                           # MobileFaceNet, in 2 minutes on 2 quiet cores
    python benchmarks/embed_throughput.py --backbone iresnet18 --images 128
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measuring import Seconds, Table, ratios, report, spread, take_turns, timed

from facekd.backbones.building import build_backbone
from facekd.data.datasets import open_dataset
from facekd.embedder import OnnxEmbedder, Preprocessing, open_embedder
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.embedder.onnx_models.session import open_session
from facekd.embedder.speed_trial import find_fastest
from facekd.errors import FacekdError, run_verb
from facekd.export.export_onnx import export_backbone
from facekd.export.options import ExportOptions
from facekd.faces.embedding import embed_in_order
from facekd.faces.finding import FaceFinder
from facekd.faces.gallery import Origin, read_gallery
from facekd.faces.gallery_writer import GalleryWriter
from facekd.faces.image_inputs import list_images
from facekd.images.encoding import encode_jpeg
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import counted

BARE, BARE_BATCHES = "bare", (1, 8, 32)
SIZE, JPEG_QUALITY, OPSET = 112, 95, 13  # OpenCV does not read the newest opsets
GOAL = 0.95  # of facekd over bare


def write_faces(folder: Path, count: int) -> list[Path]:
    """Writes JPEGs of generated faces and returns their paths in the order in which they are listed."""
    images, _ = open_dataset(f"synthetic:{-(-count // 4)}x4", SIZE).load(np.arange(count))
    folder.mkdir()
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(encode_jpeg(image, JPEG_QUALITY))
    return paths


def unit(rows: list[np.ndarray]) -> np.ndarray:
    """Joins embeddings to (N, D), of unit length."""
    joined = np.concatenate(rows)
    return joined / np.linalg.norm(joined, axis=1, keepdims=True)


def embed_by_facekd(embedder: OnnxEmbedder, faces: Path, output: Path) -> np.ndarray:
    """Embeds as the verb does, with its file in progress and its gallery."""
    images = list_images([str(faces)])
    with GalleryWriter(output, images, embedder.embedding_size, {}, may_replace=True) as writer:
        finder = FaceFinder(embedder.preprocessing.image_size)
        with embed_in_order(embedder, finder, images, range(len(images)), workers=usable_cores()) as results:
            for image in results:
                writer.add(image)
        writer.finish(Origin("m.onnx", "", embedder.preprocessing), "largest")
    return read_gallery(output).embeddings


def make_sides(
    model: Path, faces: Path, paths: list[Path], embedder: OnnxEmbedder, threads: int | None
) -> dict[str, Callable[[], np.ndarray]]:
    """Returns the loops, each of which returns the embeddings of all images at unit length."""
    tuned = open_session(read_onnx_file(model), threads)
    usual = open_session(read_onnx_file(model))
    name = tuned.get_inputs()[0].name
    inputs = embedder.preprocessing.apply(np.stack([cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths]))
    network = cv2.dnn.readNetFromONNX(str(model))

    def bare(batch: int) -> np.ndarray:
        return unit([tuned.run(None, {name: inputs[i : i + batch]})[0] for i in range(0, len(inputs), batch)])

    # The size of batch that suits calls whose threads share them may be another one.
    best = min(BARE_BATCHES, key=lambda size: min(timed(lambda: bare(size))[0] for _ in range(3)))

    def by_blobs(run: Callable[[np.ndarray], Any]) -> np.ndarray:
        found = []
        for path in paths:
            mean = (127.5, 127.5, 127.5)
            blob = cv2.dnn.blobFromImages([cv2.imread(str(path))], 1 / 127.5, (SIZE, SIZE), mean, swapRB=True)
            found.append(np.array(run(blob)))
        return unit(found)

    def by_dnn(blob: np.ndarray) -> np.ndarray:
        network.setInput(blob)
        return network.forward()

    def alone() -> np.ndarray:
        # OpenCV's threads turn while they wait, and would slow down the other loops.
        cv2.setNumThreads(usable_cores())
        try:
            return by_blobs(by_dnn)
        finally:
            cv2.setNumThreads(1)

    print(f"bare: batches of {best}")
    cv2.setNumThreads(1)
    return {
        BARE: lambda: bare(best),
        "facekd": lambda: embed_by_facekd(embedder, faces, model.with_name("faces.npz")),
        "get_feat": lambda: by_blobs(lambda blob: usual.run(None, {name: blob})[0]),
        "dnn": alone,
    }


def check_agreement(sides: dict[str, Callable[[], np.ndarray]]) -> None:
    """Refuses to compare loops that compute something else."""
    embeddings = {name: side() for name, side in sides.items()}
    for name, found in embeddings.items():
        least = float((found * embeddings[BARE]).sum(axis=1).min())
        if least < 0.999:
            raise FacekdError(f"{name} has other embeddings than bare: their least cosine is {least:.4f}")


def main() -> int:
    """Measures all loops in turns, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The model, with random weights, and the images.
        torch.manual_seed(0)
        model, faces = Path(folder) / "m.onnx", Path(folder) / "faces"
        backbone = build_backbone(arguments.backbone, embedding_size=512, image_size=SIZE).eval()
        export_backbone(backbone, Preprocessing(), model, ExportOptions(opset=OPSET))
        paths = write_faces(faces, arguments.images)
        cores = usable_cores()
        counts = [None, cores // 2] if cores > 1 else [None]
        found, speed = find_fastest(lambda threads: open_embedder(model, threads=threads), counts)
        assert isinstance(found, OnnxEmbedder)
        sides = make_sides(model, faces, paths, found, speed.threads)

        # Measure.
        check_agreement(sides)
        measured: dict[str, list[Seconds]] = take_turns(
            {name: lambda side=side: timed(side) for name, side in sides.items()}, arguments.turns
        )
    rows = []
    for name, seconds in measured.items():
        by_clock, by_processor = (
            ratios([second[kind] for second in measured[BARE]], [second[kind] for second in seconds]) for kind in (0, 1)
        )
        rates = [arguments.images / second[0] for second in seconds]
        goal = f"at least {GOAL}" if name == "facekd" else ""
        rows.append([name, spread(rates, 1), spread(by_clock), spread(by_processor), goal])
    title = (
        f"{arguments.backbone}, {counted(arguments.images, 'JPEG')} of {SIZE} pixels, batches of {speed.batch_size}, "
        f"{counted(speed.threads or cores, 'thread')}, {counted(arguments.turns, 'turn')}"
    )
    head = ["loop", "images/s", "speed over bare, by the clock", "by the processor's time", "goal"]
    report([Table(title, head, rows)], arguments.json, seconds=measured)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
