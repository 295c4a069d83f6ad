"""Makes the tiny inputs that the commands of `commands.py` read: faces, photographs, models, results, configs."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.faults.commands import COMMANDS, MEASURE, PEOPLE, SMALL, environment

PIPELINE = """\
output: out
base:
  data: {train: "@/faces", image_size: 32, workers: 0}
  backbone: {width: 0.125, embedding_size: 16}
  head: {margin_value: 0.2, scale: 16}
  schedule: {lr: 0.01}
  images: 48
  global_batch_size: 12
  log_every_images: 24
  checkpoint: {every_images: 24}
  device: cpu
  tensorboard: false
teacher: {config: {backbone.width: 0.25}}
distilled: {config: {loss: {embedding_l2: 1}}}
"""
STUDY = """\
output: out
seeds: [0, 1]
reference: alone
prepare:
  - data synthesize --output {study}/data --size 32 --identities 8 --images-per-identity 6 --pairs 40
base:
  data: {train: "{study}/data", image_size: 32, workers: 0}
  backbone: {width: 0.125, embedding_size: 16}
  head.scale: 16
  schedule.lr: 0.05
  images: 48
  global_batch_size: 12
  checkpoint: {every_images: 24}
  device: cpu
  tensorboard: false
packs: ["{study}/data/test.bin"]
evaluate: {fars: [0.1], bootstrap: 0, pictures: false, folds: 2}
methods:
  alone: {verb: train}
  l2: {verb: distill, config: {teacher.model: "{alone}", loss: {embedding_l2: 1}}}
"""
CLASSIFIER = (
    "--data.image_size 32 --data.workers 0 --device cpu --backbone.name resnet8x4 --backbone.embedding_size 256 "
    "--head.kind linear --images 16 --global_batch_size 8 --log_every_images 8 --tensorboard false"
)


def work_and_names(
    doc: str | None, names: str, argv: Sequence[str] | None, others: Collection[str] = ()
) -> tuple[Path, list[str]]:
    """Parses the words of a check: a folder to work in, and names of what to check. Unknown names end the process.

    Args:
        doc: what the check does, for `--help`.
        names: what the names are, and what goes without any, for `--help`.
        argv: the words; those of the process if None.
        others: names that are known beside those of commands; commands that the check has no use for are passed over.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and attempts")
    parser.add_argument("names", nargs="*", help=names)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - {*COMMANDS, *others}:  # it would be passed over, as if all were well
        parser.error(f"nothing is called {', '.join(sorted(unknown))}; there are {', '.join((*COMMANDS, *others))}")
    return arguments.work.resolve(), arguments.names


def prepare_inputs(folder: Path) -> Path:
    """Makes the inputs, unless they are there; returns the folder.

    Raises:
        CalledProcessError: one of the commands that make them failed.
    """
    folder = folder.resolve()
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    # Generated people: a pack, with a verification pack of others; folders; IJB's layout; a classification set.
    _run(folder, f"data synthesize --identities 8 {PEOPLE} --test-identities 20 --pairs 40 --output faces")
    _run(folder, "data unpack faces folders")
    _run(folder, "data make-ijb folders ijb --image-size 32 --workers 1")
    _run(folder, "data make-protocol ijbs folders ijbs")
    _run(
        folder,
        "data synthesize-classification --layout cifar-10 --images-per-class 6 --test-images-per-class 3 "
        "--output cifar",
    )
    _run(
        folder,
        "data synthesize --identities 3 --images-per-identity 4 --size 112 --workers 0 --pairs 0 --layout folders "
        "--output generated",
    )

    # Models of a few thousand weights, and results to report and to compare.
    _run(folder, f"train --data.train faces {SMALL} --tensorboard false --output teacher")
    _run(folder, f"train --data.train faces {SMALL} --tensorboard false --head.sub_centers 2 --output centres")
    _run(folder, "export teacher --output model.onnx")
    _run(folder, "cache-teacher teacher --data faces --output teacher.cache")
    _run(folder, f"train --data.train cifar {CLASSIFIER} --output classifier")
    measure = f"--pairs faces/test.bin --folds 2 {MEASURE} --no-pictures"
    _run(folder, f"evaluate lfw --model model.onnx {measure} --threads 1 --output lfw-results")
    _run(folder, f"evaluate lfw --model teacher/checkpoints/{24:012d}.pt {measure} --output lfw-results-other")
    _run(folder, f"evaluate ijbc --model model.onnx --root ijb {MEASURE} --workers 1 --resize --output ijb-results")
    _run(folder, f"evaluate folder --model model.onnx --images folders {MEASURE} --threads 1 --output folder-results")
    _run(folder, "embed folders --model model.onnx --resize --batch-size 1 --workers 1 --flip --output faces.npz")
    _write_files(folder)
    (folder / "complete").touch()
    return folder


def _run(folder: Path, words: str) -> None:
    command = [sys.executable, "-m", "facekd", *words.split()]
    done = subprocess.run(command, cwd=folder, env=environment(folder), check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        done.check_returncode()


def _write_files(folder: Path) -> None:
    """Writes what no verb makes: photographs with landmarks, two packs, a list to clean by, weights, configs."""
    import numpy as np
    import torch

    from facekd.images.alignment import template
    from tests.facekd.importing.written_weights import fill, state_dict_of_mbf

    # "Photographs": generated faces, whose landmarks are the template's, moved by up to two pixels.
    shutil.move(folder / "generated" / "train", folder / "photos")
    generator = np.random.default_rng(0)
    lines = []
    for path in sorted((folder / "photos").rglob("*.jpg")):
        points = template(112) + generator.normal(0, 0.7, (5, 2))
        lines.append("\t".join([str(path.relative_to(folder / "photos")), *(f"{x:.3f}" for x in points.ravel())]))
    # The last photograph has no landmarks, so that it is set aside.
    (folder / "landmarks.tsv").write_text("\n".join(lines[:-1]) + "\n")

    (folder / "packs").mkdir()
    for name in ("lfw", "cfp_fp"):
        shutil.copy(folder / "faces" / "test.bin", folder / "packs" / f"{name}.bin")
    (folder / "drop.tsv").write_text("drop\t3\ndrop\t17\n")
    torch.save(fill(state_dict_of_mbf(16, 32)), folder / "backbone.pth")
    (folder / "arcface.py").write_text("config = dict(rec='faces', num_image=100000, num_epoch=20)\n")
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("@", str(folder)))
    (folder / "study.yaml").write_text(STUDY)
