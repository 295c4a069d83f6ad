"""Defines the command-line options for finding faces, shared by all verbs that take photographs or aligned crops."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from facekd.commands.command_line import real_number, whole_number

if TYPE_CHECKING:  # OpenCV and onnxruntime take time to load: `--help` does without
    from facekd.faces.finding import FaceFinder


def add_face_options(parser: argparse.ArgumentParser, default: str = "largest") -> None:
    """Adds `--detector`, `--faces`, `--min-score`, `--min-face` and `--detector-size`.

    Args:
        parser: gets the options.
        default: the default of `--faces`.
    """
    add = parser.add_argument_group(
        "the faces", "without --detector each image is taken for an aligned face"
    ).add_argument
    add(
        "--detector",
        type=Path,
        metavar="ONNX",
        help="face detector for photographs: SCRFD with landmarks (_bnkps), or YuNet",
    )
    add(
        "--faces",
        choices=("all", "largest", "centre", "score"),
        default=default,
        help="which of several faces in a photograph: all, the largest, the one nearest the centre, or the surest "
        f"(default: {default})",
    )
    add_detection_limits(add)


def add_detection_limits(add: Callable[..., object]) -> None:
    """Adds `--min-score`, `--min-face` and `--detector-size` by the `add_argument` of a parser or of a group."""
    add("--min-score", type=real_number(0, 1), default=0.5, metavar="S", help="least score of a face (default: 0.5)")
    add("--min-face", type=real_number(0, 8192), default=0, metavar="PX", help="least side of a face (default: 0)")
    add(
        "--detector-size",
        type=whole_number(64, 8192),
        default=640,
        metavar="PX",
        help="longer side of the photograph in the detector; half of it if no face is found (default: 640)",
    )


def open_finder(arguments: argparse.Namespace, image_size: int) -> FaceFinder:
    """Opens what the options of `add_face_options`, and `--resize`, ask for.

    Args:
        arguments: the parsed command line.
        image_size: S, input size of the model.

    Raises:
        ModelError: there is no such detector, or it is none.
    """
    from facekd.faces.choosing import FaceRules
    from facekd.faces.detectors import open_detector
    from facekd.faces.finding import FaceFinder

    detector = None if arguments.detector is None else open_detector(arguments.detector)
    rules = FaceRules(arguments.faces, arguments.min_score, arguments.min_face, arguments.detector_size)
    return FaceFinder(image_size, detector, rules, resize=arguments.resize)


def detector_sha256(arguments: argparse.Namespace) -> str | None:
    """Returns the digest of the detector's file; None if there is none."""
    from facekd.embedder.onnx_models.file import read_onnx_file

    return None if arguments.detector is None else read_onnx_file(arguments.detector).sha256
