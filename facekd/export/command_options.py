"""Adds the options of `facekd export` that say how the graph is written, and how a variant is judged."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from facekd.commands.command_line import COSINE, real_number, whole_number
from facekd.export.options import (
    ALLOWED_LOSS,
    CALIBRATION,
    LEAST_CALIBRATION,
    LEAST_COSINE,
    NEWEST_OPSET,
    OLDEST_OPSET,
    TOLERANCE,
    CalibrationMethod,
    InputForm,
    Precision,
    PreluForm,
)


def add_graph_options(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of `ExportOptions`."""
    group.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="divide embeddings by their L2 norm inside the graph (default: keep their norm)",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="return the mean of the embeddings of an image and its mirror image (default: no); twice the time",
    )
    group.add_argument(
        "--input",
        choices=get_args(InputForm),
        default="float",
        help="normalised images, or raw pixels that the graph normalises, channels first or last (default: float)",
    )
    group.add_argument(
        "--color", choices=("rgb", "bgr"), help="order of raw pixels' channels (default: the network's own)"
    )
    group.add_argument(
        "--batch", type=whole_number(1, 65_536), metavar="N", help="fix the number of images at once (default: any)"
    )
    group.add_argument(
        "--prelu",
        choices=get_args(PreluForm),
        default="fast",
        help="fast: PReLU as depthwise convolutions, which onnxruntime computes faster; native: the operator itself",
    )
    group.add_argument(
        "--opset",
        type=whole_number(OLDEST_OPSET, NEWEST_OPSET),
        default=NEWEST_OPSET,
        metavar="N",
        help=f"version of the operators, {OLDEST_OPSET} to {NEWEST_OPSET}, for older runtimes (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="fp16: layers in float16; int8: layers with bytes, calibrated on faces; int8-weights: a file of a quarter "
        "to half the size that computes in float32 (default: fp32)",
    )
    group.add_argument(
        "--tolerance",
        type=real_number(0, 1, above=True),
        default=TOLERANCE,
        help="largest relative error |onnx - torch| / |torch| allowed (default: %(default)s)",
    )


def add_judging_options(group: argparse._ArgumentGroup) -> None:
    """Adds an option for each field of `JudgingOptions`."""
    add = group.add_argument
    add(
        "--calibrate",
        metavar="DATA",
        help="aligned faces: a pack (.bin, .npz), a .rec or a folder. int8 is calibrated on some of them, and a "
        "variant compared with float32 on others",
    )
    add(
        "--calibration-images",
        type=whole_number(LEAST_CALIBRATION, 10_000),
        default=CALIBRATION,
        metavar="N",
        help="faces that int8 is calibrated on (default: %(default)s)",
    )
    add(
        "--calibration-method",
        choices=get_args(CalibrationMethod),
        default="percentile",
        help="how the range of an activation is chosen (default: %(default)s)",
    )
    add(
        "--judge",
        type=Path,
        action="append",
        default=[],
        metavar="PACK",
        help="measure accuracy, EER and TAR@FAR on a pack, beside those of float32; may be given several times",
    )
    add(
        "--allow-loss",
        type=real_number(0, 100),
        default=ALLOWED_LOSS,
        metavar="P",
        help="points of accuracy, EER or TAR that a variant may lose on a pack, where an interval shows the loss "
        "(default: %(default)s)",
    )
    add(
        "--allow-cosine",
        type=COSINE,
        default=LEAST_COSINE,
        metavar="C",
        help="least mean cosine between the embeddings of a variant and of float32 (default: %(default)s)",
    )
    add("--keep-anyway", action="store_true", help="keep a variant that loses more, and say so in its card")
    add("--resize", action="store_true", help="scale faces of another size instead of refusing them")
