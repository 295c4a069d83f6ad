"""The part of `facekd evaluate ijbc` that runs the model: its options, and the processes that share the work."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ijb.embedding_rows import NpyRows
from evaluation.ijb.face_embeddings import FaceEmbeddings, Share
from evaluation.ijb.problems import NUM_EXAMPLES, Findings
from evaluation.ijb.protocol import IjbProtocol
from evaluation.provenance import describe_model, find_model
from facekd.embedder.model_options import open_model


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cache`, `--embedding-dtype` and `--workers`."""
    add = parser.add_argument_group("embedding").add_argument
    add("--cache", metavar="DIR", help="where embeddings are kept (default: embeddings in the output folder)")
    add("--embedding-dtype", choices=("float32", "float16"), default="float32", help="in which (default: float32)")
    add("--workers", type=int, metavar="N", help="threads that decode and align (default: one a core, at most 8)")


def embed_with_model(
    arguments: argparse.Namespace, protocol: IjbProtocol, findings: Findings, flip: bool
) -> tuple[NpyRows | None, dict[str, Any]]:
    """Embed what of the set is not embedded yet, alone or with the other processes of this run.

    Args:
        arguments: parsed, with the options of `add_embedding_options` and of the model among them.
        protocol: the set.
        findings: the faces wanted; images that cannot be read are added to it.
        flip: whether the mirror images are wanted too.

    Returns:
        The embeddings and the entries `model` and `embeddings` of results.json; None for the first in all processes
        but the main one, which alone goes on to score.

    Raises:
        ModelError, DataError: see there.
    """
    with _together() as (share, wait):
        model_file = find_model(arguments.model)
        embedder = open_model(model_file, arguments)
        folder = Path(arguments.cache) if arguments.cache else Path(arguments.output) / "embeddings"
        embeddings = FaceEmbeddings(folder, embedder, protocol, flip, arguments.embedding_dtype)
        wanted = np.unique(protocol.face_images[findings.keep_faces])
        if share.rank == 0:
            embeddings.prepare()
        wait()
        missing = embeddings.missing(wanted)
        wait()  # until all have looked: from here on the files change
        embeddings.fill(missing, share, arguments.workers)
        wait()
    if share.rank != 0:
        return None, {}
    unreadable = embeddings.missing(missing)
    if unreadable.size:
        reasons = "; ".join(
            f"{protocol.image_name(int(image))}: {embeddings.why_unreadable(int(image))}"
            for image in unreadable[:NUM_EXAMPLES]
        )
        findings.drop_images("unreadable image", unreadable, reasons)
    return embeddings.rows(), {"model": describe_model(model_file, embedder), "embeddings": None}


@contextlib.contextmanager
def _together() -> Iterator[tuple[Share, Any]]:
    """This process's share, and a function that waits for the others; started by torch.distributed.run or alone."""
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if size == 1:
        yield Share(), lambda: None
        return
    # One GPU a process, before any library counts them; which, neither onnxruntime nor the embedder needs to know.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(number) for number in range(local + 1)]
    if local < len(gpus):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local]
    from facekd.distributed import join_world, wait_for_all  # here: torch, which an ONNX file alone does without

    with join_world("cpu") as world:
        yield Share(world.rank, world.size), lambda: wait_for_all(world)
