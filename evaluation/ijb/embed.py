"""Runs the model for `facekd evaluate ijbc` and `protocol`: its options, and the processes that share the work."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.ijb.face_embeddings import FaceEmbeddings, FaceImages, FaceQualities, Share
from evaluation.ijb.problems import NUM_EXAMPLES, Findings
from evaluation.ijb.protocol import IjbProtocol
from evaluation.sets.embedding_rows import NpyRows
from evaluation.sets.qualities import MODEL
from facekd.commands.command_line import THREADS
from facekd.embedder.described_model import open_described_model
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import DataError
from facekd.files.output_lock import folder_lock
from facekd.utils.processes.children import launched_as, launcher_number
from facekd.utils.sampling import spread_evenly

if TYPE_CHECKING:
    from facekd.distributed import World

IMAGES_COMPARED = 256  # of a set, by the processes that share it


def add_embedding_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--cache`, `--embedding-dtype` and `--workers`."""
    add = parser.add_argument_group("embedding").add_argument
    add("--cache", metavar="DIR", help="folder of embeddings (default: embeddings in the output folder)")
    add("--embedding-dtype", choices=("float32", "float16"), default="float32", help="number type (default: float32)")
    add("--workers", type=THREADS, metavar="N", help="threads that decode and align (default: one per core, at most 8)")


@dataclass(frozen=True)
class Embedded:
    """Holds what a model makes of the images of a list.

    Attributes:
        rows: the embeddings; None in all but the main process.
        model: what results.json says of the model.
        unreadable: (m,), which images could not be read.
        reasons: why the first of these could not.
        qualities: with `--quality model` (N,) what the model says of each image, 0 of those that were not wanted.
    """

    rows: NpyRows | None
    model: dict[str, Any]
    unreadable: np.ndarray
    reasons: str
    qualities: np.ndarray | None


def open_embeddings(
    arguments: argparse.Namespace, protocol: IjbProtocol, findings: Findings, flip: bool
) -> tuple[NpyRows | None, dict[str, Any], np.ndarray | None]:
    """Returns the embeddings, made with the model if they are not given, as `embed_with_model` does."""
    if arguments.embeddings is None:
        return embed_with_model(arguments, protocol, findings, flip)
    if launcher_number("RANK", 0) > 0:
        return None, {}, None  # several processes were started, but there is nothing to share
    rows = NpyRows(arguments.embeddings, None, arguments.embeddings_flipped, protocol.num_listed)
    status = Path(arguments.embeddings).stat()
    about = {
        "path": str(Path(arguments.embeddings).resolve()),
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "shape": list(rows.shape),
        "dtype": str(rows.dtype),
        "holds": "plain+flipped" if rows.has_flipped else "plain",
        "embedding_size": rows.embedding_size,
    }
    return rows, {"model": None, "embeddings": about}, None


def embed_with_model(
    arguments: argparse.Namespace, protocol: IjbProtocol, findings: Findings, flip: bool
) -> tuple[NpyRows | None, dict[str, Any], np.ndarray | None]:
    """Embeds the faces that are not embedded yet, alone or together with the other processes of this run.

    Args:
        arguments: parsed arguments, including the options of `add_embedding_options` and of the model.
        protocol: the set.
        findings: the faces wanted; images that cannot be read are added to it.
        flip: whether to embed the mirror images too.

    Returns:
        The embeddings; the entries `model` and `embeddings` of results.json; with `--quality model` the qualities (N,).
        Only the main process goes on to score; in the others the embeddings are None.

    Raises:
        ModelError, DataError: see `open_model` and `FaceEmbeddings`.
    """
    wanted = np.unique(protocol.face_images[findings.keep_faces])
    found = embed_listed(arguments, protocol, wanted, flip)
    if found.rows is None:
        return None, {}, None
    if found.unreadable.size:
        findings.drop_images("unreadable image", found.unreadable, found.reasons)
    return found.rows, {"model": found.model, "embeddings": None}, found.qualities


def embed_listed(arguments: argparse.Namespace, images: FaceImages, wanted: np.ndarray, flip: bool) -> Embedded:
    """Embeds some of the images of a list that are not embedded yet, as `embed_with_model` does.

    Args:
        arguments: see `embed_with_model`.
        images: the list.
        wanted: (n,) the numbers of the images wanted.
        flip: whether to embed the mirror images too.
    """
    with _together() as (share, world):
        embedder, model = open_described_model(arguments.model, arguments)
        folder = Path(arguments.cache) if arguments.cache else Path(arguments.output) / "embeddings"
        embeddings = FaceEmbeddings(folder, embedder, images, flip, arguments.embedding_dtype)
        of_quality = None
        if getattr(arguments, "quality", None) == MODEL:
            of_quality = FaceQualities(folder, QualityEmbedder(embedder, arguments.model), images)
        # A folder of --cache may be that of another evaluation, which must not create the files anew meanwhile.
        with folder_lock(folder, "evaluation embeds", active=share.rank == 0):
            if world is not None:
                require_same_work(world, embeddings, wanted)
            missing = _fill(embeddings, of_quality, wanted, share, world, arguments.workers)
    if share.rank != 0:
        return Embedded(None, {}, wanted[:0], "", None)
    # What is missing still could not be read.
    unreadable = embeddings.missing(missing)
    reasons = "; ".join(
        f"{images.image_name(int(image))}: {embeddings.why_unreadable(int(image))}"
        for image in unreadable[:NUM_EXAMPLES]
    )
    qualities = None if of_quality is None else of_quality.rows().read(0, images.num_listed)[0][:, 0]
    return Embedded(embeddings.rows(), model, unreadable, reasons, qualities)


def _fill(
    embeddings: FaceEmbeddings,
    qualities: FaceQualities | None,
    wanted: np.ndarray,
    share: Share,
    world: World | None,
    workers: int | None,
) -> np.ndarray:
    """Embeds what is missing of the images wanted, each process its share; returns whose embeddings were missing.

    One process creates the files, all check what is missing, and only then do the files change. Images that lack both
    their embedding and their quality get both by one pass of the model.
    """

    def wait() -> None:
        if world is not None:
            from facekd.distributed import wait_for_all

            wait_for_all(world)

    if share.rank == 0:
        embeddings.prepare()
        if qualities is not None:
            qualities.prepare()
    wait()
    missing = embeddings.missing(wanted)
    of_quality = wanted[:0] if qualities is None else qualities.missing(wanted)
    wait()
    both = np.intersect1d(missing, of_quality)
    embeddings.fill(both, share, workers, qualities)
    embeddings.fill(np.setdiff1d(missing, both), share, workers)
    if qualities is not None:
        qualities.fill(np.setdiff1d(of_quality, both), share, workers)
    wait()
    return missing


def require_same_work(world: World, embeddings: FaceEmbeddings, wanted: np.ndarray) -> None:
    """Checks that every process embeds the main one's images with its model.

    Rows of others would be missed in the end, and their images be taken for unreadable ones. An image is told by its
    size and times, so that copies of a set on several machines are other images.

    Args:
        world: the processes.
        embeddings: what this process embeds.
        wanted: (n,) the numbers of the images.

    Raises:
        DataError: one does not; raised on every process.
    """
    from facekd.distributed import broadcast_from_main, failing_together

    stamps = embeddings.stamps_of_files(wanted[spread_evenly(len(wanted), IMAGES_COMPARED)])
    mine = (embeddings.digest, embeddings.sides, wanted.tobytes(), stamps.tobytes())
    main = broadcast_from_main(mine, world)
    with failing_together(world):
        if mine[:3] != main[:3]:
            raise DataError(
                f"what rank {world.rank} is to embed, or its model or options, are not those of the main process: "
                "start the same command, with the same model and the same lists, on every machine"
            )
        if mine[3] != main[3]:
            raise DataError(
                f"the images on rank {world.rank} are other files than those of the main process, by size or time: "
                "put them on a file system that all machines share, or take the GPUs of one machine"
            )


@contextlib.contextmanager
def _together() -> Iterator[tuple[Share, World | None]]:
    """Yields this process's share of the work, and the processes that share it; None if this one is alone.

    The processes are those that torch.distributed.run started, or this one alone.
    """
    launched = launched_as()
    local = launched.local_rank
    if launched.size == 1:
        yield Share(), None
        return
    # Give each process one GPU, before any library counts them: every library then sees only that one.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(number) for number in range(local + 1)]
    if local < len(gpus):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local]
    from facekd.distributed import join_world  # imports torch: not at the top

    with join_world("cpu") as world:
        yield Share(world.rank, world.size), world
