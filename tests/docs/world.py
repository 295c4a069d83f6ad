"""Makes a folder with everything that the pages name: small, generated, and under the names of the pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.docs.blocks import ROOT
from tests.painted_faces import paint, write_scrfd

PEOPLE = ("ada", "bob", "cleo", "dan", "eva", "fay", "gus", "hal")
DATA = "data synthesize --identities 8 --images-per-identity 4 --pairs 40 --workers 0"
TEST = "--test-identities 20 --test-images-per-identity 3"
MANY = "data synthesize --identities 40 --images-per-identity 4 --pairs 0 --layout folders --workers 0"
CONFIG = """\
output: runs/mine
data: {train: faces, image_size: 112}
backbone: {name: mobilefacenet, width: 0.25, embedding_size: 64}
images: 16
global_batch_size: 8
schedule: {name: constant, lr: 0.01}
"""
# A checkpoint and an ONNX file of a network at 112 pixels that has seen a few images.
TRAIN = "train configs/debug.yaml --data.train faces --data.image_size 112 --images 100 --schedule.warmup_images 0"
COPIES = {
    **{f"faces/train.{kind}": [f"train.{kind}"] for kind in ("rec", "idx")},
    "faces": ["ms1mv3", "data/ms1mv3", "lfw_train"],
    "runs/mbf": ["runs/teacher", "runs/ms1mv3"],
    "model.onnx": ["m.onnx", "mbf.onnx", "theirs.onnx", "teacher.onnx", "student.onnx", "mobilefacenet.onnx"],
    "lfw.bin": ["cfp_fp.bin", "agedb_30.bin", *(f"data/ms1mv3/{name}.bin" for name in ("lfw", "cfp_fp", "agedb_30"))],
    "photos": ["PHOTOS", "FOLDER"],
    "PEOPLE": ["OTHERS"],
    "scrfd.onnx": ["scrfd_2.5g_bnkps.onnx"],
    "photos/ada/1.jpg": ["A.jpg", "WHO.jpg", "ada.jpg", "party.jpg", "photo.jpg"],
    "photos/bob/1.jpg": ["B.jpg", "bob.jpg"],
}


def make_world(folder: Path) -> None:
    """Fills an empty folder; takes half a minute."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation").symlink_to(ROOT / "evaluation")
    (folder / "examples").symlink_to(ROOT / "examples")
    run(f"facekd {DATA} {TEST} --output faces", folder)
    (folder / "faces" / "test.bin").rename(folder / "lfw.bin")
    run(f"facekd {MANY} --output drawn", folder)
    (folder / "drawn" / "train").rename(folder / "PEOPLE")
    write_photographs(folder / "photos")
    write_scrfd(folder / "scrfd.onnx")
    run(f"facekd {TRAIN} --validation.packs [lfw.bin] --output runs/mbf", folder)
    run("facekd export runs/mbf --output model.onnx", folder)
    run("facekd evaluate folder --model model.onnx --images PEOPLE --output runs/people", folder)
    run("facekd embed PEOPLE/0000000 --model model.onnx --output probes.npz", folder)
    run("facekd data make-ijb synthetic:12x6 IJB_release/IJBC --workers 0", folder)
    faces = len((folder / "IJB_release/IJBC/meta/ijbc_name_5pts_score.txt").read_text().splitlines())
    np.save(folder / "embeddings.npy", np.random.default_rng(0).normal(size=(faces, 64)).astype(np.float32))
    (folder / "CONFIG.yaml").write_text(CONFIG)
    for source, targets in COPIES.items():
        for target in targets:
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (folder / source).is_dir() else shutil.copyfile
            copy(folder / source, folder / target)


def write_photographs(folder: Path) -> None:
    """Writes four photographs of each person, in each of which `write_scrfd` finds one face."""
    generator = np.random.default_rng(0)
    for name in PEOPLE:
        (folder / name).mkdir(parents=True)
        for number in range(1, 5):
            image = paint((int(generator.integers(4, 10)), int(generator.integers(4, 10)), 255, 0), size=112)
            image[..., 1] = generator.integers(0, 256, 112)[:, None]  # green, which the detector does not look at
            cv2.imwrite(str(folder / name / f"{number}.jpg"), image[..., ::-1])


def run(script: str, folder: Path) -> str:
    """Runs lines of a shell in a folder, with this facekd; returns what they print.

    Raises:
        AssertionError: a line failed; the message has its output.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GIT_CEILING_DIRECTORIES": "/"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert not done.returncode, f"status {done.returncode} of\n{script}\n{done.stdout[-3000:]}"
    return done.stdout
