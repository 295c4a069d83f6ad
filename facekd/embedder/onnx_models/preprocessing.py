"""Chooses the preprocessing of an ONNX file: as given, recorded, known of the file, read from its graph, or assumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facekd.embedder.onnx_models.input_arithmetic import TAKEN_AS, InputArithmetic
from facekd.errors import ModelError
from facekd.images.preprocessing import DEFAULTS, Preprocessing, in_short, parse_metadata
from facekd.utils.foreign import shown

# Mean and std outside the graph that give it what it takes.
OUTSIDE = {"0..255": (0.0, 1.0), "0..1": (0.0, 255.0)}


def resolve_preprocessing(
    given: Mapping[str, Any],
    metadata: Mapping[str, str],
    declared_size: int | None,
    arithmetic: InputArithmetic,
    path: Path,
    published: Preprocessing | None = None,
) -> tuple[Preprocessing, tuple[str, ...], tuple[str, ...]]:
    """Takes each field as given, else as recorded, else as published, else as the graph shows, else assumes it.

    Args:
        given: `mean`, `std`, `color`, `image_size`; None means not given.
        metadata: the file's `metadata_props`.
        declared_size: image size that the graph is fixed to, if it is.
        arithmetic: what the graph itself does to its input.
        path: the file, for messages.
        published: what is known of exactly this file; see `known_models`.

    Returns:
        The preprocessing, the names of the fields that were assumed, and remarks for the user.

    Raises:
        ModelError: fields contradict each other, or nothing shows what the graph wants.
    """
    # Fields that are not given come from the file.
    unsaid = [name for name, value in given.items() if value is None]
    try:
        recorded = {name: parse_metadata(name, metadata[name]) for name in unsaid if name in metadata}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    known = {**recorded, **{name: value for name, value in given.items() if value is not None}}
    said = "given" if given["mean"] is not None else "recorded"
    if published is not None:
        said = said if "mean" in known else "published"
        for names in (("mean", "std"), ("color",), ("image_size",)):
            if not known.keys() & {*names}:
                known.update({name: getattr(published, name) for name in names})
    _settle_size(known, given, declared_size, path)
    if ("mean" in known) != ("std" in known):
        missing = "std" if "mean" in known else "mean"
        raise ModelError(f"{path}: {missing} is neither given nor recorded; give mean and std together")

    # The graph shows others; those that nothing shows are assumed.
    has_mean = "mean" in known
    from_graph = {} if has_mean else _read_from_graph(arithmetic, "color" in known, path)
    if arithmetic.color and "color" not in known:
        from_graph["color"] = arithmetic.color
    assumed = tuple(name for name in DEFAULTS if name not in known and name not in from_graph)
    try:
        preprocessing = Preprocessing(**{**DEFAULTS, **from_graph, **known})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return preprocessing, assumed, _remarks(arithmetic, preprocessing, said if has_mean else "", "color" in known)


def _settle_size(known: dict[str, Any], given: Mapping[str, Any], declared_size: int | None, path: Path) -> None:
    """Adds the graph's own image size to the known fields; nothing may contradict it."""
    if declared_size is not None:
        if known.setdefault("image_size", declared_size) != declared_size:
            said = "given" if given["image_size"] is not None else "recorded"
            other = shown(known["image_size"])
            raise ModelError(f"{path}: takes {declared_size} pixels, but image_size {other} is {said}")
    elif "image_size" not in known:
        raise ModelError(
            f"{path}: takes images of any size and does not record one; give image_size (--image-size 112, say)"
        )


def _read_from_graph(arithmetic: InputArithmetic, has_color: bool, path: Path) -> dict[str, Any]:
    """Returns mean and std that nobody states, as far as the graph shows them."""
    if arithmetic.problem:
        raise ModelError(
            f"{path}: does not record its preprocessing, and {arithmetic}; give --mean and --std in units of 0..255 "
            "(--mean 0 --std 1 passes raw pixels, --mean 0 --std 255 pixels of 0..1), and --color"
        )
    if arithmetic.reverses and not (has_color or arithmetic.color):
        raise ModelError(
            f"{path}: does not record its preprocessing, and {arithmetic}, but RGB or BGR does not show; "
            "give --color rgb if it takes RGB images, --color bgr if BGR"
        )
    if arithmetic.takes not in OUTSIDE:
        return {}
    mean, std = OUTSIDE[arithmetic.takes]
    return {"mean": mean, "std": std}


def _remarks(arithmetic: InputArithmetic, preprocessing: Preprocessing, said: str, has_color: bool) -> tuple[str, ...]:
    """Returns what users should know of the graph's arithmetic; nothing if it has none."""
    # What the graph does, and what is done outside.
    if arithmetic.is_plain:
        return ()
    outside = f"mean {in_short(preprocessing.mean)} and std {in_short(preprocessing.std)}"
    remarks = []
    wanted = OUTSIDE.get(arithmetic.takes)
    if arithmetic.problem:
        remarks.append(f"{arithmetic}; {outside} are applied before it, as {said}")
    elif said and wanted and not np.allclose([preprocessing.mean, preprocessing.std], np.transpose([wanted] * 3)):
        remarks.append(
            f"warning: {arithmetic}, but {outside} are {said}: pixels are normalised twice; "
            f"--mean {wanted[0]:g} --std {wanted[1]:g} passes {TAKEN_AS[arithmetic.takes]}"
        )
    else:
        color = f", color {arithmetic.color} as its means show" if arithmetic.color and not has_color else ""
        remarks.append(f"{arithmetic}; passed with {outside}{color}")

    # The order of the channels, as the means show it.
    if arithmetic.color and has_color and arithmetic.color != preprocessing.color:
        remarks.append(
            f"warning: the means in the graph are those of {arithmetic.color.upper()} images (red's is the largest), "
            f"but color is {preprocessing.color}"
        )
    elif arithmetic.reverses and not (has_color or arithmetic.color):
        remarks.append("warning: the graph reverses the channels; give --color bgr if it takes BGR images, else rgb")
    return tuple(remarks)
