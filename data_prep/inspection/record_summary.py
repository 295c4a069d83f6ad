"""Describes a RecordIO data set in numbers, with warnings about anything unusual."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from facekd.data.datasets.record_pack import RecordPack
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS, unpack
from facekd.data.recordio.headers import RecordHeaders
from facekd.errors import ImageError, RecordError
from facekd.images.decoding import decode_rgb
from facekd.utils.progress import track
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import agreeing, counted

FORMAT_BY_START = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"BM": "BMP"}
NUM_SAMPLED = 512  # images decoded, unless all are asked for


def summarize(pack: RecordPack, check_all: bool = False) -> dict[str, Any]:
    """Describes a pack in plain types, ready for JSON.

    Args:
        pack: opened with `on_bad_record="skip"`, so that a damaged pack can be described too.
        check_all: decode every image and look for duplicates, instead of decoding a sample.

    Returns:
        Keys `rec`, `bytes`, `layout`, `num_records`, `num_images`, `num_identity_records`, `num_classes`,
        `images_per_identity`, `image_bytes`, `labels`, `label_form`, `decoded` (how many images were decoded),
        `unusable`, `formats`, `image_sizes`, `grayscale`, `duplicates` (None unless `check_all`), `index`, `property`,
        `oddities` (the warnings; the key keeps its first name for programs that read it).
    """
    # Labels come from the headers alone; images are decoded last.
    headers = pack.headers()
    labels = pack.labels_from(headers)
    warnings = list(pack.warnings)
    usable = labels[labels >= 0]
    present, counts = np.unique(usable, return_counts=True)
    num_classes = pack.num_classes
    warnings += _label_warnings(pack, present, counts)
    warnings += _identity_warnings(pack, labels)
    images = _decode_images(pack, check_all)
    warnings += images.pop("oddities")
    index = pack.reader.index
    return {
        "rec": str(pack.reader.rec_path),
        "bytes": pack.reader.rec_path.stat().st_size,
        "layout": pack.layout,
        "num_records": len(pack.reader),
        "num_images": pack.num_images,
        "num_identity_records": len(pack.identity_keys),
        "num_classes": num_classes,
        "num_identities_with_images": len(present),
        "images_per_identity": _spread(counts),
        "image_bytes": _spread(headers.image_sizes[headers.is_readable & ~headers.is_empty]),
        "labels": [int(usable.min()), int(usable.max())] if len(usable) else None,
        "label_form": _label_form(headers),
        **images,
        "index": str(index.source) if index.source is not None else None,
        "property": pack.property,
        "oddities": warnings,
    }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _label_form(headers: RecordHeaders) -> str:
    lengths = Counter(headers.num_labels[headers.is_readable].tolist())
    forms = ["scalar" if length == 0 else f"array of {length}" for length, _ in lengths.most_common()]
    return ", ".join(forms)


def _label_warnings(pack: RecordPack, present: np.ndarray, counts: np.ndarray) -> list[str]:
    """Returns sentences about the labels that occur, `present`, and how many images each has, `counts`."""
    found = []
    num_classes = pack.num_classes
    num_over = int(counts[present >= num_classes].sum())
    if num_over:
        found.append(
            f"{counted(num_over, 'image has a label', 'images have labels')} of {num_classes:,} or more (up to "
            f"{present[-1]:,}), out of range for {counted(num_classes, 'class')}"
        )
    found += pack.class_warnings()
    num_single = int((counts == 1).sum())
    if num_single:
        found.append(f"{counted(num_single, 'identity has', 'identities have')} a single image")
    return found


def _identity_warnings(pack: RecordPack, labels: np.ndarray) -> list[str]:
    """Compares InsightFace's identity records with the labels of the images.

    Each identity record gives the range of keys of one identity's images.
    """
    if len(pack.identity_keys) == 0 or pack.num_images >= EXACT_FLOAT32_INTEGERS:
        return []  # float32 cannot hold the ranges of so many images
    # The labels in the order of the keys: a range of keys is a slice of it.
    order = np.argsort(pack.image_keys, kind="stable")
    keys, labels_by_key = pack.image_keys[order], labels[order]
    # A range must be sound, and all images in it must have one label.
    wrong: list[int] = []
    unreadable = num_covered = 0
    for key in track(pack.identity_keys.tolist(), "reading identity records"):
        try:
            header, image_bytes = unpack(pack.reader.read_view(key))
        except RecordError:
            unreadable += 1
            continue
        bounds = np.atleast_1d(header.label)
        if image_bytes or len(bounds) < 2 or not np.isfinite(bounds).all():
            wrong.append(key)
            continue
        inside = labels_by_key[slice(*np.searchsorted(keys, bounds[:2]))]
        num_covered += len(inside)
        is_one_identity = len(inside) == 0 or (inside == inside[0]).all()
        if not is_one_identity:
            wrong.append(key)
    # Say what was found; a gap matters only if every record could be read.
    found = []
    if unreadable:
        found.append(f"{counted(unreadable, 'identity record')} cannot be read")
    if wrong:
        found.append(
            f"{counted(len(wrong), 'identity record does', 'identity records do')} not fit the labels of "
            f"{agreeing(len(wrong), 'its', 'their')} images, first: record {wrong[0]}"
        )
    elif not unreadable and num_covered != pack.num_images:
        found.append(f"the identity records cover {num_covered:,} of {counted(pack.num_images, 'image')}")
    return found


def _decode_images(pack: RecordPack, check_all: bool) -> dict[str, Any]:
    """Decodes a sample of the images, or all of them, and counts formats, sizes and duplicates."""
    sample = spread_evenly(pack.num_images, pack.num_images if check_all else NUM_SAMPLED)
    formats: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    unusable: list[str] = []
    num_grayscale = 0
    label_of_content: dict[bytes, int] = {}
    num_duplicates = num_disputed = 0
    for image in track(sample.tolist(), "decoding images"):
        try:
            content, label = pack.read_image(image)
            pixels = decode_rgb(content)
        except RecordError as error:
            unusable.append(str(error))
            continue
        except ImageError as error:
            unusable.append(f"{pack.describe_image(image)}: {error}")
            continue

        # Count format, size and colour.
        formats[next((name for start, name in FORMAT_BY_START.items() if content.startswith(start)), "other")] += 1
        sizes[f"{pixels.shape[1]}x{pixels.shape[0]}"] += 1
        num_grayscale += bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())

        # Compare the bytes with those of all images before.
        if check_all:
            first = label_of_content.setdefault(hashlib.blake2b(content, digest_size=16).digest(), label)
            is_new = len(label_of_content) == sum(formats.values()) - num_duplicates
            num_duplicates += not is_new
            num_disputed += first != label

    # Put what is unusual into sentences.
    warnings = []
    if unusable:
        warnings.append(
            f"{len(unusable):,} of {counted(len(sample), 'image')} looked at {agreeing(len(unusable), 'is', 'are')} "
            f"unusable, first: {unusable[0]}"
        )
    if len(sizes) > 1:
        warnings.append("images have different sizes")
    if len(formats) > 1:
        warnings.append("images have different formats")
    if num_duplicates:
        warnings.append(
            f"{counted(num_duplicates, 'image is an exact copy of another', 'images are exact copies of others')}, "
            f"{num_disputed:,} of them under another label"
        )
    return {
        "decoded": len(sample),
        "unusable": len(unusable),
        "formats": dict(formats.most_common()),
        "image_sizes": dict(sizes.most_common()),
        "grayscale": num_grayscale,
        "duplicates": num_duplicates if check_all else None,
        "oddities": warnings,
    }
