"""Verb `facekd drop-sub-centers`: keeps the dominant centre of each class, and lists the images far from it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.inspection.clean_lists import write_clean_list
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.commands.command_line import CommandParser, real_number
from facekd.commands.places import check_apart, mark_of_format, require_own_results
from facekd.embedder.model_options import add_model_options
from facekd.errors import CheckpointError, run_verb
from facekd.files.output_lock import folder_lock
from facekd.files.result_folder import finish_results, start_results
from facekd.files.writing import write_text
from facekd.head.sub_centers import DominantCentres, find_dominant_centres
from facekd.teacher.options import add_data_options, embed_training_set, labels_of_embedded, open_teacher_and_data
from facekd.utils.foreign import shown
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.checkpoints.shared_head import SharedHead
    from facekd.data.datasets import FaceDataset

CHECKPOINT, NOISY, REPORT, EMBEDDINGS = "checkpoint.pt", "noisy.tsv", "report.json", "embeddings.cache"
REPORT_FORMAT, REPORT_VERSION = "facekd-dropped-sub-centers", 1
DEFAULT_ANGLE = 75.0  # of the paper
EPILOG = """example:
  facekd train CONFIG.yaml --head.sub_centers 3 --data.train PACK --output runs/k3
  facekd drop-sub-centers runs/k3 --data PACK --output dropped
  facekd data clean PACK CLEAN --apply dropped/noisy.tsv
  facekd train CONFIG.yaml --data.train CLEAN --backbone.weights dropped/checkpoint.pt \\
      --head.weights dropped/checkpoint.pt --output runs/k1

The dominant centre of an identity is the one that most of its images are nearest to (docs/method.md, Sub-centres).
writes OUT/checkpoint.pt, the model with that centre alone, to go on from by --backbone.weights and --head.weights;
OUT/noisy.tsv, the images further from it than --angle, for `facekd data clean`; and OUT/report.json. After an
interruption the same command continues.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses, and drops the sub-centres; returns the exit status."""
    arguments = _parser().parse_args(argv)
    with folder_lock(arguments.output, "command drops sub-centres"):
        return _drop(arguments, arguments.output)


def _drop(arguments: argparse.Namespace, output: Path) -> int:
    """Embeds the images, finds the dominant centres, and writes and prints the results."""
    # The model and the data, and whether they belong together.
    file = resolve_checkpoint(arguments.model)
    check_apart(output, file, Path(arguments.data), names=(CHECKPOINT, NOISY, REPORT, EMBEDDINGS))
    marks = [mark_of_format(REPORT_FORMAT)]
    require_own_results(output, (CHECKPOINT, NOISY), "facekd drop-sub-centers", REPORT, marks)
    arguments.model = str(file)
    head, checkpoint = _read_head(file)
    embedder, dataset = open_teacher_and_data(arguments)

    from facekd.checkpoints.shared_head import require_same_people

    require_same_people(head, checkpoint, dataset)
    if embedder.embedding_size != head.embedding_size:
        raise CheckpointError(
            f"{file}: its classifier takes embeddings of {head.embedding_size}, its backbone gives "
            f"{embedder.embedding_size}: the classifier is not that of this backbone"
        )

    # The embeddings are kept in the folder until all is written, so that a kill costs little.
    cache = embed_training_set(arguments, output / EMBEDDINGS, embedder, dataset)
    labels = labels_of_embedded(dataset, cache)
    found = find_dominant_centres(cache.lookup_units, labels, head.weight_CD.numpy(), head.sub_centers, track)

    # The results; the report comes last and says that all are there.
    start_results(output, (CHECKPOINT, NOISY), mark=REPORT)
    report = _describe(arguments, cache.data, head, found, labels)
    _write_checkpoint(output / CHECKPOINT, checkpoint, found, report)
    _write_noisy(output / NOISY, dataset, found, labels, arguments.angle)
    finish_results(output, report, mark=REPORT)
    (output / EMBEDDINGS).unlink()
    _print(report, output, is_pack=_pack_of(dataset) is not None)
    return 0


def _read_head(file: Path) -> tuple[SharedHead, Checkpoint]:
    """Reads the classifier of a checkpoint, with the checkpoint.

    Raises:
        CheckpointError: it has none, or one centre for each class.
    """
    from facekd.checkpoints.shared_head import read_classifier

    head, checkpoint = read_classifier(file)
    if head.sub_centers == 1:
        raise CheckpointError(
            f"{file}: its classifier has one centre for each class, and none to drop; train with head.sub_centers = 3 "
            "first, or look for wrong labels by `facekd data inspect PACK --report FILE.html --model MODEL`"
        )
    return head, checkpoint


def _describe(
    arguments: argparse.Namespace,
    data: dict[str, Any],
    head: SharedHead,
    found: DominantCentres,
    labels: NDArray[np.int64],
) -> dict[str, Any]:
    """Returns the content of the report."""
    is_labelled, is_far = labels >= 0, found.is_far(arguments.angle)
    images = np.bincount(labels[is_labelled], minlength=len(found.weight))
    far = np.bincount(labels[is_far], minlength=len(found.weight))
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "model": arguments.model,
        "data": data,
        "angle": arguments.angle,
        "sub_centers": head.sub_centers,
        "num_images": int(is_labelled.sum()),
        "num_unreadable": int((~is_labelled).sum()),
        "num_nearest_to_dominant": int(found.num_nearest.max(axis=1).sum()),
        "num_far": int(is_far.sum()),
        "num_identities_with_far": int((far > 0).sum()),
        "num_identities_far_as_a_whole": int(((far == images) & (images > 0)).sum()),
        "num_identities_without_images": int((images == 0).sum()),
    }


def _write_checkpoint(path: Path, checkpoint: Checkpoint, found: DominantCentres, report: dict[str, Any]) -> None:
    """Writes the model with one centre for each class, without what resumes a run."""
    import torch

    from facekd.checkpoints.checkpoint import write_checkpoint

    head = {**checkpoint.config.get("head", {}), "sub_centers": 1}
    summary = {key: report[key] for key in ("model", "data", "angle", "sub_centers", "num_images", "num_far")}
    write_checkpoint(
        path,
        dataclasses.replace(
            checkpoint,
            config={**checkpoint.config, "head": head, "dropped_sub_centers": summary},
            head={**(checkpoint.head or {}), "weight": torch.from_numpy(found.weight)},
            head_shards=None,
            sub_centers=None,
            training=None,
        ),
    )


def _write_noisy(
    path: Path, dataset: FaceDataset, found: DominantCentres, labels: NDArray[np.int64], angle: float
) -> None:
    """Writes the list of images further than an angle from their centre, furthest first.

    For a pack it is a list of `facekd data clean`; for other data it has the files.
    """
    far = np.flatnonzero(found.is_far(angle))
    far = far[np.argsort(found.cosine[far], kind="stable")]
    degrees = np.rad2deg(np.arccos(np.clip(found.cosine[far], -1, 1)))
    evidence = list(zip(labels[far].tolist(), (f"{value:.1f}" for value in degrees.tolist()), strict=True))
    title = (
        f"images further than {angle:g} {agreeing(angle, 'degree')} from the dominant centre of their identity, "
        "furthest first"
    )
    pack = _pack_of(dataset)
    if pack is None:
        rows = [(shown(dataset.describe(image)), *row) for image, row in zip(far.tolist(), evidence, strict=True)]
        lines = [f"# {title}: the image  its label  degrees", *("\t".join(map(str, row)) for row in rows)]
        write_text(path, "\n".join(lines) + "\n")
        return
    keys = pack.image_keys[dataset.images_in_pack()[far]].tolist()  # type: ignore[attr-defined]
    rows = [("drop", key, *row) for key, row in zip(keys, evidence, strict=True)]
    write_clean_list(path, pack, (f"{title}: drop KEY  its label  degrees",), rows)


def _pack_of(dataset: FaceDataset) -> Any:
    """Returns the record pack behind a data set; None for other data, and for a set in several files."""
    from facekd.data.datasets.record_pack import RecordPack

    pack = getattr(dataset, "pack", None)
    return pack if isinstance(pack, RecordPack) else None


def _print(report: dict[str, Any], output: Path, is_pack: bool) -> None:
    num_images, num_far = report["num_images"], report["num_far"]
    identities, wholly = report["num_identities_with_far"], report["num_identities_far_as_a_whole"]
    print(
        f"one of {counted(report['sub_centers'], 'centre')} kept of each identity, by {counted(num_images, 'image')}, "
        "flip-averaged"
    )
    print(f"  nearest to the centre that is kept   {report['num_nearest_to_dominant'] / num_images:.2%} of the images")
    print(
        f"  further from it than {report['angle']:g} {agreeing(report['angle'], 'degree')}     "
        f"{counted(num_far, 'image')} ({num_far / num_images:.2%}) of {counted(identities, 'identity')}; "
        f"{counted(wholly, 'has', 'have')} no others"
    )
    print(f"wrote {output / CHECKPOINT}: go on by --backbone.weights and --head.weights")
    then = f"leave them out by `facekd data clean {report['data']['name']} CLEAN --apply {output / NOISY}`"
    print(f"wrote {output / NOISY}: look through it; " + (then if is_pack else "take these files out of the folder"))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd drop-sub-centers",
        description="Keeps the dominant one of the sub-centres of each class, and lists the images far from it.",
        example=EPILOG,
    )
    add = parser.add_argument
    add("model", metavar="RUN", help="a run trained with head.sub_centers above 1, or a checkpoint of it")
    add_data_options(parser)
    add("--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    add(
        "--angle",
        type=real_number(0, 180),
        default=DEFAULT_ANGLE,
        metavar="DEGREES",
        help="list images further than this from the centre that is kept (default: 75, as in the paper)",
    )
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
