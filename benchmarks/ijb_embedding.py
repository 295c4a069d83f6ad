"""Measures what evaluation on IJB adds to the time of the model alone: reading, decoding, aligning, flipping, storing.

A set in IJB layout is generated (`facekd data make-ijb synthetic:...`). The harness, which is the code of `facekd
evaluate ijbc`, embeds each image and its mirror image into a new cache. Beside it a bare onnxruntime session, with
default options like the harness's, embeds the same images in the same batches, prepared beforehand. The two take turns
in one process; each turn of the harness is compared with the mean of the bare runs before and after it. Their
embeddings must be equal to the bit.

    python benchmarks/ijb_embedding.py --turns 5
    python benchmarks/ijb_embedding.py --model model.onnx --people 100 --output ijb_embedding.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from data_prep.make_ijb_layout import main as make_ijb_layout
from evaluation.ijb.face_embeddings import FaceEmbeddings
from evaluation.ijb.protocol import IjbProtocol, load_protocol
from facekd.backbones.building import build_backbone
from facekd.embedder import open_embedder
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
from facekd.errors import FacekdError, run_verb
from facekd.export.export_onnx import export_backbone
from facekd.files.writing import write_json
from facekd.images.alignment import align
from facekd.images.decoding import decode_rgb
from facekd.images.preprocessing import Preprocessing
from facekd.utils.wording import counted

IMAGES_A_PERSON = 8


def prepare(protocol: IjbProtocol, embedder: OnnxEmbedder) -> list[np.ndarray]:
    """Returns the model's input in batches of float32 (B, 3, S, S): all images, then all mirror images."""
    size, chunk = embedder.preprocessing.image_size, embedder.batch_size
    crops = np.stack(
        [
            align(decode_rgb(protocol.image_path(image).read_bytes()), protocol.landmarks[image], size)
            for image in range(protocol.num_listed)
        ]
    )
    sides = (crops, crops[:, :, ::-1])
    return [
        np.ascontiguousarray(embedder.preprocessing.apply(np.ascontiguousarray(side[start : start + chunk])))
        for side in sides
        for start in range(0, len(crops), chunk)
    ]


def run_bare(session: onnxruntime.InferenceSession, batches: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Runs the session alone; returns seconds and embeddings (2N, D)."""
    name = session.get_inputs()[0].name
    start = time.perf_counter()
    found = [np.asarray(session.run(None, {name: batch})[0]) for batch in batches]
    return time.perf_counter() - start, np.concatenate(found)


def run_harness(protocol: IjbProtocol, embedder: OnnxEmbedder, folder: Path) -> tuple[float, np.ndarray]:
    """Runs the harness into a new cache; returns seconds and embeddings (2N, D)."""
    embeddings = FaceEmbeddings(folder, embedder, protocol, flip=True)
    start = time.perf_counter()
    embeddings.prepare()
    embeddings.fill(embeddings.missing(np.arange(protocol.num_listed)))
    seconds = time.perf_counter() - start
    plain, mirrored = embeddings.rows().read(0, protocol.num_listed)
    assert mirrored is not None
    return seconds, np.concatenate([plain, mirrored])


def compare(model: Path, people: int, turns: int, scratch: Path) -> dict[str, Any]:
    """Measures both in turns.

    Raises:
        FacekdError: `model` is a checkpoint, or the two give different embeddings.
    """
    # A generated set, the harness's embedder, and the bare session with its input prepared.
    make_ijb_layout([f"synthetic:{people}x{IMAGES_A_PERSON}", str(scratch / "set")])
    protocol = load_protocol(scratch / "set", "IJBC")
    embedder = open_embedder(model)
    if not isinstance(embedder, OnnxEmbedder):
        raise FacekdError(f"{model}: is a checkpoint, and the bare session needs an ONNX file; export it first")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batches = prepare(protocol, embedder)

    # One bare run warms up; then every run of the harness stands between two bare ones.
    run_bare(session, batches)
    bare, harness = [run_bare(session, batches)[0]], []
    for turn in range(turns):
        seconds, found = run_harness(protocol, embedder, scratch / f"cache-{turn}")
        harness.append(seconds)
        seconds, expected = run_bare(session, batches)
        bare.append(seconds)
        if not np.array_equal(found, expected):
            raise FacekdError(
                "the harness and the bare session give different embeddings, so their speed is not compared"
            )
    ratios = [2 * own / (before + after) for own, before, after in zip(harness, bare[:-1], bare[1:], strict=True)]
    return {"images": protocol.num_listed, "harness": harness, "bare": bare, "ratios": ratios}


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description="Measures embedding an IJB set by the harness beside a bare onnxruntime session.",
        epilog="example:\n  python benchmarks/ijb_embedding.py --turns 5 --output ijb_embedding.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="an ONNX file (default: an untrained backbone, exported here)")
    parser.add_argument(
        "--backbone", default="mobilefacenet", help="backbone if --model is not given (default %(default)s)"
    )
    parser.add_argument(
        "--people", type=int, default=40, help=f"people with {IMAGES_A_PERSON} images each (default %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=5, help="runs of the harness (default %(default)s)")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)

    # Measure, with an untrained model if none is given.
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model
        if model is None:
            model = Path(scratch) / "model.onnx"
            export_backbone(build_backbone(arguments.backbone, embedding_size=512), Preprocessing(), model)
        found = compare(model, arguments.people, max(arguments.turns, 1), Path(scratch))

    # Print times an image and their ratio.
    ratios, images = found["ratios"], found["images"]
    for name in ("bare", "harness"):
        each = [1000 * seconds / images for seconds in found[name]]
        spread = f"{min(each):.2f} to {max(each):.2f}"
        print(f"{name}: {statistics.median(each):.2f} ms an image and its mirror image ({spread})")
    spread = f"{min(ratios):.3f} to {max(ratios):.3f} in {counted(len(ratios), 'turn')} of {counted(images, 'image')}"
    print(f"harness / bare: {statistics.median(ratios):.3f} ({spread})")
    if arguments.output:
        write_json(arguments.output, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
