"""Measures which quality head tells poor images best: by error-versus-discard curves, beside the embedding's length.

Both heads of `facekd train-quality` are taught behind a run's backbone, which embeds the training set once. Then all
pairs of the images of other people are compared by f(x) + f(mirrored x), and for each quality the comparisons of lowest
quality are left out. The table has the area under the curve between the ideal (0) and discarding at random (1), with
95 % intervals over people; compare qualities at one FAR only. People that backbone or heads were taught say little.

    python benchmarks/quality_heads.py runs/student --train faces --people PEOPLE --output quality_heads.json
    python benchmarks/quality_heads.py runs/quick --train synthetic:40x8 --people synthetic:30x6:7 --fars 0.01
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Table, machine

from evaluation.sets.all_pairs import AllPairs
from evaluation.sets.embedding_cache import embed_pair_set
from evaluation.sets.face_folder import FaceFolder
from evaluation.sets.folder_embeddings import measure_pair_quality
from evaluation.sets.labelled_faces import LabelledFaces, is_labelled_set
from facekd.embedder import open_embedder
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import FacekdError, run_verb
from facekd.files.reading import read_json
from facekd.files.writing import write_json
from facekd.quality.targets import TARGETS
from facekd.teacher.train_quality import main as train_quality
from facekd.verification.measures import measure_verification
from facekd.verification.scores import unit_rows

LIMITS = (0.2, 0.3)  # shares up to which areas are shown


def teach(run: str, train: str, images: int, seed: int, folder: Path, resize: bool) -> dict[str, Path]:
    """Trains a head for each target, on embeddings that are made once; returns the models."""
    found = {}
    for target in TARGETS:
        found[target] = folder / f"{target}.pt"
        words = ["--data", train, "--output", str(found[target]), "--cache", str(folder / "embeddings.cache")]
        words += ["--target", target, "--images", str(images), "--seed", str(seed), *(["--resize"] if resize else [])]
        if train_quality([run, *words]):
            raise FacekdError(f"{run}: the head for {target} was not made")
    return found


def measure(
    models: dict[str, Path], people: str, fars: list[float], draws: int, seed: int, resize: bool
) -> dict[str, Any]:
    """Compares all pairs of a set of people, and measures each quality on them."""
    embedders = {name: open_embedder(model, resize=resize) for name, model in models.items()}
    embedder = next(iter(embedders.values()))
    size = embedder.preprocessing.image_size
    faces = LabelledFaces(people, size, resize) if is_labelled_set(people) else FaceFolder(Path(people), size, resize)
    embeddings = embed_pair_set(embedder, faces, flip=True)

    # What each quality says of the images; a head looks at the image as it is.
    scorers = {name: QualityEmbedder(each, models[name]) for name, each in embedders.items()}
    qualities = {name: embed_pair_set(each, faces, flip=False)[:, 0].astype(float) for name, each in scorers.items()}
    qualities["norm"] = np.linalg.norm(embeddings.astype(np.float64), axis=1)

    pairs = AllPairs(unit_rows(embeddings.astype(np.float64), None), faces.people, fars)
    points = measure_verification(pairs.ranked, fars, "exact")["tar_at_far"]
    found = {
        name: measure_pair_quality(pairs, quality, {"kind": "file", "path": name}, points, draws, seed)["curves"]
        for name, quality in qualities.items()
    }
    return {
        "num_images": len(faces),
        "num_people": len(np.unique(faces.people)),
        "num_genuine": len(pairs.genuine),
        "num_impostor": pairs.num_impostor,
        "curves": found,
    }


def table(measured: dict[str, Any]) -> Table:
    """Returns a row for each FAR and quality."""
    rows = []
    for name, curves in measured["curves"].items():
        for curve in curves:
            areas = {area["limit"]: area for area in curve["areas"]}
            cells = [area_text(areas[limit]) for limit in LIMITS]
            rows.append([f"{curve['far']:g}", name, f"{100 * curve['fnmr']:.2f}", str(curve["num_rejected"]), *cells])
    rows.sort(key=lambda row: -float(row[0]))
    counts = ", ".join(f"{measured[key]:,} {key.removeprefix('num_')}" for key in measured if key.startswith("num_"))
    columns = ["FAR", "quality", "FNMR %", "rejected", *(f"area to {100 * limit:g} %" for limit in LIMITS)]
    return Table(f"Error versus discard: {counts}", columns, rows)


def area_text(area: dict[str, Any]) -> str:
    """Writes an area with its interval."""
    if area["relative_pairs"] is None:
        return "no errors"
    bounds = area["relative_pairs_ci95"]
    return f"{area['relative_pairs']:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description="Measures what quality heads are worth, beside the length of the embedding.",
        epilog="example:\n  python benchmarks/quality_heads.py runs/student --train faces --people PEOPLE",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run of facekd, or a checkpoint")
    parser.add_argument("--train", required=True, help="labelled faces that the heads learn from")
    parser.add_argument("--people", required=True, help="aligned faces of others: a folder, pack or generated set")
    parser.add_argument("--resize", action="store_true", help="resize images of another size")
    parser.add_argument("--fars", default="1e-2,1e-3,1e-4", help="FARs of the thresholds (default %(default)s)")
    parser.add_argument("--images", type=int, default=100_000, help="images to learn from (default %(default)s)")
    parser.add_argument("--bootstrap", type=int, default=1000, help="draws over people (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of heads and draws (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the models and embeddings here (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    fars = [float(word) for word in arguments.fars.split(",")]

    # Teach, then measure.
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        models = teach(arguments.run, arguments.train, arguments.images, arguments.seed, folder, arguments.resize)
        measured = measure(models, arguments.people, fars, arguments.bootstrap, arguments.seed, arguments.resize)
        reports = {name: read_json(path.with_suffix(".json"), "a report", "run again") for name, path in models.items()}
    shown = table(measured)
    print(f"\n{shown.title}\n\n{shown.markdown()}")
    if arguments.output:
        write_json(arguments.output, {"machine": machine(), "heads": reports, **measured})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
