"""Writes aligned faces again, a drawn share of them degraded, to measure what qualities of images are worth.

Each person becomes a folder of PNG files, and `spoilt.tsv` says what was done to which. A face gets one degradation
of one strength, drawn from those of `facekd evaluate robustness` that take details away: blur 2 to 4, a side of 32 to
16 pixels, noise of 30 or 45 grey levels. Then, for example:

    python benchmarks/spoil_faces.py PACK spoilt
    facekd evaluate folder --model model.onnx --images spoilt --quality norm --output results
    facekd data make-ijb spoilt IJB --largest-probe 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.sets.labelled_faces import LabelledFaces
from facekd.errors import FacekdError, run_verb
from facekd.utils.progress import track
from facekd.utils.wording import counted

WAYS = {"blur": (2, 3, 4), "resolution": (32, 24, 16), "noise": (30, 45)}


def spoil(faces: LabelledFaces, folder: Path, share: float, seed: int) -> int:
    """Writes all faces, some of them degraded; returns how many those are."""
    rng = np.random.default_rng(seed)
    is_spoilt = rng.random(len(faces)) < share
    lines = []
    for number in track(range(len(faces)), "writing faces", len(faces)):
        image = faces.decode(number, number + 1)[0]
        if is_spoilt[number]:
            name = list(WAYS)[rng.integers(len(WAYS))]
            strength = WAYS[name][rng.integers(len(WAYS[name]))]
            image = DEGRADATIONS[name].apply(image, strength, rng)
            lines.append(f"{faces.people[number]}/{number}.png\t{name}\t{strength}\n")
        (folder / str(faces.people[number])).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / str(faces.people[number]) / f"{number}.png"), image[..., ::-1])
    (folder / "spoilt.tsv").write_text("".join(lines))
    return len(lines)


def main(argv: list[str] | None = None) -> int:
    """Writes the faces."""
    parser = argparse.ArgumentParser(description="Writes aligned faces again, a drawn share of them degraded.")
    parser.add_argument("source", help="a pack, or synthetic:PEOPLExIMAGES:SEED")
    parser.add_argument("folder", type=Path, help="folder to write to, which must not be there")
    parser.add_argument("--size", type=int, default=112, help="side of the images (default %(default)s)")
    parser.add_argument("--share", type=float, default=0.5, help="share that is degraded (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.folder.exists():
        raise FacekdError(f"{arguments.folder}: is there already; name another folder")
    faces = LabelledFaces(arguments.source, arguments.size)
    arguments.folder.mkdir(parents=True)
    spoilt = spoil(faces, arguments.folder, arguments.share, arguments.seed)
    print(f"{arguments.folder}: {counted(len(faces), 'face')}, {spoilt:,} of them degraded")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
