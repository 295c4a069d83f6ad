"""Turns what `facekd data inspect` finds into lists for `facekd data clean` and into parts of the page."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data_prep.inspection.clean_lists import PACK_MARK, write_clean_list
from data_prep.inspection.contact_sheet import Guest, Row
from data_prep.inspection.identity_findings import (
    Centres,
    embed_images,
    find_centres,
    find_merges,
    find_outliers,
    find_overlap,
    load_embeddings,
)
from data_prep.inspection.page import Finding
from facekd.commands.places import require_own
from facekd.data.datasets.record_pack import RecordPack
from facekd.data.pair_packs.pair_pack import PairPack, decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.embedder.model_options import open_model
from facekd.errors import DataError, FacekdError
from facekd.images.decoding import decode_rgb
from facekd.utils.wording import agreeing, counted

LISTS = DUPLICATES, OUTLIERS, MERGE, OVERLAP = "duplicates.tsv", "outliers.tsv", "merge.tsv", "overlap.tsv"


def require_own_lists(folder: Path) -> None:
    """Refuses a folder with lists that were not written by `facekd data inspect`.

    Raises:
        DataError: it has one.
    """
    for name in LISTS:
        require_own(folder / name, "facekd data inspect", [PACK_MARK.encode()])


def list_duplicates(folder: Path, pack: RecordPack, duplicates: np.ndarray, among: str) -> Path:
    """Writes `duplicates.tsv`, which drops the later image of each pair; returns its path.

    `among` is what `among_text` says.
    """
    labels, keys = pack.labels(), pack.image_keys
    path = folder / DUPLICATES
    comments = (f"near duplicates{among}: drop KEY  the key it repeats  its label  the label of that",)
    later = {int(second): int(first) for first, second in duplicates[::-1].tolist()}
    rows = [
        ("drop", keys[second], keys[first], labels[second], labels[first]) for second, first in sorted(later.items())
    ]
    write_clean_list(path, pack, comments, rows)
    return path


def look_at_identities(arguments: argparse.Namespace, pack: RecordPack, folder: Path) -> list[Finding]:
    """Finds outliers, identities to merge and overlap with an evaluation; writes them as lists and prints their number.

    Args:
        arguments: the command line of `facekd data inspect`; it names a model or embeddings.
        pack: the data set.
        folder: where the lists go.
    """
    # Embeddings of the data set, made here or elsewhere.
    embedder = None if arguments.model is None else open_model(arguments.model, arguments)
    labels = pack.labels()
    if arguments.embeddings is not None:
        embeddings, usable = load_embeddings(arguments.embeddings, pack.num_images), labels >= 0
    else:
        assert embedder is not None

        def read(image: int) -> np.ndarray | None:
            try:
                return decode_rgb(pack.read_image(image)[0])
            except FacekdError:
                return None

        embeddings, usable = embed_images(embedder.embed, read, pack.num_images, "embedding images")
    found = find_centres(embeddings, np.where(usable, labels, -1))
    findings = [_outliers(found, pack, folder), _merges(found, pack, folder, arguments.merge_cosine)]

    # Embeddings of the evaluation that must have nobody in common with it.
    if arguments.against is not None:
        others_pack = read_pair_pack(arguments.against)
        if arguments.against_embeddings is not None:
            others = load_embeddings(arguments.against_embeddings, len(others_pack.images))
        elif embedder is None:
            raise DataError("--against needs --model, or --against-embeddings beside --embeddings")
        else:

            def read_other(image: int) -> np.ndarray:
                return decode_images([others_pack.images[image]], image, arguments.against)[0]

            count = len(others_pack.images)
            others, _ = embed_images(embedder.embed, read_other, count, f"embedding {arguments.against.name}")
        findings.append(_overlap(found, pack, others, others_pack, folder, arguments))
    for title, explanation, _ in findings:
        print(f"{title + ':':<24} {explanation}")
    return findings


def _outliers(found: Centres, pack: RecordPack, folder: Path) -> Finding:
    outliers = find_outliers(found)
    path = folder / OUTLIERS
    comments = (
        "images that are likely mislabelled, the surest first",
        "drop KEY  label  cosine to the others of its identity  nearest other label  cosine to that",
    )
    rows = [
        (
            "drop",
            pack.image_keys[o.image],
            found.labels[o.image],
            f"{o.own_cosine:.3f}",
            o.other_label,
            f"{o.other_cosine:.3f}",
        )
        for o in outliers
    ]
    write_clean_list(path, pack, comments, rows)
    text = (
        f"{counted(len(outliers), 'image is', 'images are')} below {found.centres.threshold:.3f} or nearer to another "
        f"identity: {path}"
    )
    shown = [[o.image, *_examples(found, int(found.labels[o.image]), o.image, 3)] for o in outliers[:12]]
    return Finding("Likely mislabelled", text, shown)


def _merges(found: Centres, pack: RecordPack, folder: Path, min_cosine: float | None) -> Finding:
    merges, limit = find_merges(found, min_cosine)
    path = folder / MERGE
    comments = (
        "identities that are likely one person, the nearest first",
        "merge LABEL  OTHER  cosine of their centres",
    )
    write_clean_list(path, pack, comments, [("merge", one, other, f"{cosine:.3f}") for one, other, cosine in merges])
    text = (
        f"{counted(len(merges), 'pair of identities has', 'pairs of identities have')} centres at a cosine of "
        f"{limit:.3f} or more: {path}"
    )
    shown = [[*_examples(found, one, -1, 4), *_examples(found, other, -1, 4)] for one, other, _ in merges[:12]]
    return Finding("Likely one person", text, shown)


def _overlap(
    found: Centres,
    pack: RecordPack,
    others: np.ndarray,
    others_pack: PairPack,
    folder: Path,
    arguments: argparse.Namespace,
) -> Finding:
    overlaps, limit = find_overlap(found, others, arguments.overlap_cosine)
    path = folder / OVERLAP
    num_images = sum(len(overlap.images) for overlap in overlaps)
    comments = (
        f"identities of the data set that images of {arguments.against} come nearer to than {limit:.3f}",
        "drop-identity LABEL  how many images  highest cosine  their numbers in the pack (pair is half of that)",
    )
    rows = [
        ("drop-identity", o.label, len(o.images), f"{o.cosine:.3f}", ",".join(map(str, o.images[:20])))
        for o in overlaps
    ]
    write_clean_list(path, pack, comments, rows)
    text = (
        f"{num_images:,} of {counted(len(others), 'image')} of {arguments.against} ({num_images / len(others):.2%}) "
        f"{agreeing(num_images, 'is', 'are')} nearer than {limit:.3f} to {counted(len(overlaps), 'identity')}; about "
        f"0.1 % would be with nobody in common: {path}"
    )
    shown: list[Row] = []
    for overlap in overlaps[:12]:
        guests = [Guest(others_pack.images[image], f"evaluation, {image}") for image in overlap.images[:3]]
        shown.append([*guests, *_examples(found, overlap.label, -1, 8 - len(guests))])
    return Finding("Overlap", text, shown)


def _examples(found: Centres, label: int, but: int, count: int) -> list[int]:
    """Returns the images of an identity nearest to its centre, without the image `but`."""
    images = np.flatnonzero((found.labels == label) & (found.own >= 0))
    cosine = np.nan_to_num(found.centres.cosine[images], nan=-1)
    return [int(image) for image in images[np.argsort(-cosine, kind="stable")] if image != but][:count]
