"""Adds the options of `facekd evaluate ijbc` that say how faces become templates, and reads them."""

from __future__ import annotations

import argparse
from dataclasses import replace

from evaluation.ijb.pooling import PRESETS, EmbeddingRows, Pooling, all_poolings, with_switches
from evaluation.ijb.quality import add_quality_options
from facekd.commands.command_line import CommandParser


def add_pooling_switches(parser: CommandParser) -> None:
    """Adds how faces become templates: the three switches in which tools differ."""
    switches = parser.add_argument_group("faces to templates", "by default all on, as in InsightFace's onnx_ijbc.py")
    for name, what in (
        ("keep-norm", "weight a face by the length of its embedding"),
        ("weight-by-detection-score", "weight a face by the detector's score"),
        ("flip-augment", "add the embedding of the mirror image (default: if there is one)"),
    ):
        switches.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=what)
    switches.add_argument("--protocol-like", choices=tuple(PRESETS), help="pool as another tool does")
    switches.add_argument("--all-protocols", action="store_true", help="also score every combination of the three")
    add_quality_options(parser, switches)


def chosen_pooling(arguments: argparse.Namespace, has_flipped: bool) -> Pooling:
    """Returns the pooling that the options ask for, where there are embeddings of mirror images or not."""
    base = PRESETS[arguments.protocol_like] if arguments.protocol_like else Pooling(flip_augment=has_flipped)
    base = replace(base, weight_by_quality=arguments.weight_by_quality)
    return with_switches(base, arguments.keep_norm, arguments.weight_by_detection_score, arguments.flip_augment)


def choose_poolings(arguments: argparse.Namespace, rows: EmbeddingRows) -> list[Pooling]:
    """Returns the pooling that is asked for, then, with `--all-protocols`, the others."""
    chosen = chosen_pooling(arguments, rows.has_flipped)
    if not arguments.all_protocols:
        return [chosen]
    return [chosen, *(pooling for pooling in all_poolings(rows.has_flipped) if pooling != chosen)]
