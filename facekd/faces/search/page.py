"""Writes the page of `facekd search`: each face that was searched for beside the faces that it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facekd.faces.finding import IMAGE_REASONS
from facekd.faces.gallery import Gallery
from facekd.faces.search.crops import FaceCrops
from facekd.faces.search.results import Match, SearchResults
from facekd.images.encoding import encode_jpeg
from facekd.pages.html import Picture, write_page
from facekd.pages.tables import Table
from facekd.utils.foreign import shown
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted

MAX_PROBES = 200  # with six faces each that makes a page of 6 MB
MAX_WITHOUT = 200
QUALITY = 85
GONE, LEFT_OUT = "image not found", "image not opened"


@dataclass(frozen=True)
class ShownFace:
    """Holds what the page shows of one face.

    Attributes:
        kind: the class of its frame: `"probe"`, `"accepted"`, `"rejected"` or `"open"`.
        caption: whose it is, and how near.
        picture: the face, with the caption; None if there is none.
        missing: why there is none.
        lines: what stands below the caption.
    """

    kind: str
    caption: str
    picture: Picture | None
    missing: str
    lines: list[str]


@dataclass(frozen=True)
class ShownProbe:
    """Holds one face that was searched for, first, and those that it found."""

    title: str
    faces: list[ShownFace]


def write_search_page(path: Path, results: SearchResults, title: str, images_roots: Sequence[Path] = ()) -> str | None:
    """Writes the page with the first probes.

    Images that galleries name are shown if they lie below a gallery's folder, the working directory or `images_roots`.

    Args:
        path: the HTML file.
        results: what to show.
        title: the heading.
        images_roots: further folders with images.

    Returns:
        A sentence about the images that were not opened, which the page has as well; None if there are none.
    """
    galleries = (results.path, *results.probes.galleries)
    crops = FaceCrops([Path(), *(gallery.parent for gallery in galleries), *images_roots], results.probes.named)
    count = min(len(results), MAX_PROBES)
    probes = [_show(results, probe, crops) for probe in track(range(count), "writing the page", count)]
    sentences, left_out = results.sentences(), _tell_left_out(crops)
    sentences += [left_out] if left_out else []
    if count < len(results):
        sentences.append(f"The first {counted(count, 'face is', 'faces are')} shown.")
    without = results.probes.without
    rows = [[one.image, IMAGE_REASONS[one.reason], one.detail or ""] for one in without[:MAX_WITHOUT]]
    write_page(
        path,
        "search",
        title=title,
        sentences=sentences,
        has_threshold=results.decision is not None,
        probes=probes,
        numbers=results.table(count),
        without=Table(f"{counted(len(without), 'image')} without a face", ["image", "why", ""], rows),
        next=_next_steps(results),
    )
    return left_out


def _tell_left_out(crops: FaceCrops) -> str | None:
    """Says which images were not opened, and how to have them shown; None if there are none."""
    if not crops.left_out:
        return None
    count, first = len(crops.left_out), next(iter(crops.left_out))
    return (
        f"{counted(count, 'image is', 'images are')} not shown, because a gallery may name any file and "
        f"{agreeing(count, 'this one lies', 'these lie')} neither below its folder nor below the current one, such as "
        f"{shown(first)}: where you trust the gallery, add `--images-root DIR` for images below DIR"
    )


def _next_steps(results: SearchResults) -> list[str]:
    """Says how to decide by a measured threshold, and how to compare two photographs closely."""
    steps = []
    if results.decision is None:
        flip = "--flip" if results.gallery.origin.flip else "--no-flip"  # thresholds of the other kind are refused
        steps.append(
            "Who of these is it? Measure thresholds on people of your own, "
            f"`facekd evaluate folder --model m.onnx --images PEOPLE {flip} --output results/people`, then search "
            "again with `--thresholds results/people --far 1e-4`"
        )
    steps.append(
        "Two photographs, and how sure it is: `facekd compare A.jpg B.jpg --model m.onnx --detector scrfd.onnx`"
    )
    return steps


def _show(results: SearchResults, probe: int, crops: FaceCrops) -> ShownProbe:
    """Returns what the page shows of a probe and its matches."""
    faces, name = results.probes.faces, results.name_of(probe)
    person = str(faces.people[probe])
    caption = f"searched for{f' ({person})' if person else ''}"
    own = ShownFace("probe", caption, *_picture(crops, faces, probe, caption), [])
    return ShownProbe(name, [own, *(_show_match(results.gallery, match, crops) for match in results.matches(probe))])


def _show_match(gallery: Gallery, match: Match, crops: FaceCrops) -> ShownFace:
    """Returns what the page shows of a match: who it is, how near, and what the threshold says."""
    who = match.person or Path(match.image).name
    kind = {True: "accepted", False: "rejected", None: "open"}[match.is_accepted]
    caption = f"{who}, cosine {match.cosine:.4f}"
    lines = [match.verdict, match.image if match.person else ""]
    return ShownFace(kind, caption, *_picture(crops, gallery, match.row, caption), [line for line in lines if line])


def _picture(crops: FaceCrops, faces: Gallery, row: int, caption: str) -> tuple[Picture | None, str]:
    """Returns a face as a picture, or None and why there is none."""
    crop = crops.cut(faces, row)
    if crop is None:
        return None, LEFT_OUT if str(faces.names[row]) in crops.left_out else GONE
    return Picture(encode_jpeg(crop, QUALITY), caption), ""
