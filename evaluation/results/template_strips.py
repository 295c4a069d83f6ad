"""Shows the worst pairs of an IJB-style evaluation: the images of two templates side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.ijb.protocol import IjbProtocol, load_protocol
from facekd.errors import FacekdError
from facekd.images.alignment import align
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_png
from facekd.images.image_files import read_image_file
from facekd.pages.html import Picture
from facekd.pages.tables import Table

MAX_IMAGES = 6  # shown of one template
MAX_STRIPS = 8  # shown of each kind
HEADINGS = {"genuine": "Genuine pairs, lowest scores", "impostor": "Impostor pairs, highest scores"}


@dataclass(frozen=True)
class WorstPairs:
    """Holds the worst pairs as pictures or, if their images are not available, as a table.

    Attributes:
        table: row of the pair file, score and templates of each pair.
        strips: by heading, a picture for each pair; empty if there are none.
        why_no_images: what kept the images out, if something did.
    """

    table: Table
    strips: dict[str, list[Picture]] = field(default_factory=dict)
    why_no_images: str = ""


def show_worst_pairs(result: dict[str, Any]) -> WorstPairs | None:
    """Collects what the page shows of the worst pairs; None for a result that lists none.

    The images are read from the IJB-style set. A set that is gone or has changed since leaves the table.
    """
    worst = result.get("worst") or {}
    if not (worst.get("genuine") or worst.get("impostor")):
        return None
    table = _as_table(worst)
    dataset = result["dataset"]
    try:
        protocol = load_protocol(dataset["root"], dataset["target"], may_write=False)
    except (FacekdError, OSError) as error:
        return WorstPairs(table, why_no_images=str(error))
    if protocol.fingerprint != dataset["fingerprint"]:
        return WorstPairs(table, why_no_images="the lists of the set are others than those that were evaluated.")

    # A strip for each pair of which both templates have images.
    templates = _TemplateImages(protocol)
    strips: dict[str, list[Picture]] = {}
    for kind, heading in HEADINGS.items():
        for pair in worst.get(kind, [])[:MAX_STRIPS]:
            sides = [templates.images(pair["first"]), templates.images(pair["second"])]
            if all(sides):
                text = f"{pair['score']:.4f}: templates {pair['first']} and {pair['second']}, pair {pair['pair']:,}"
                strips.setdefault(heading, []).append(Picture(join_templates(*sides), text))
    return WorstPairs(table, strips)


def join_templates(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bytes:
    """Returns a PNG with two templates side by side, a grey line between them.

    Args:
        first: uint8 RGB images (S, S, 3), all of one size, of which up to `MAX_IMAGES` are shown.
        second: the same.
    """
    size = len(first[0])
    step, gap = size + size // 20, size // 2
    width = MAX_IMAGES * step
    canvas = np.full((size, 2 * width + gap, 3), 255, np.uint8)
    canvas[:, width + gap // 2 - 1] = 200
    for start, images in ((0, first), (width + gap, second)):
        for column, image in enumerate(images[:MAX_IMAGES]):
            canvas[:, start + column * step : start + column * step + size] = image
    return encode_png(canvas)


def _as_table(worst: dict[str, Any]) -> Table:
    rows = [
        [kind, f"{pair['pair']:,}", f"{pair['score']:.4f}", f"{pair['first']}, {pair['second']}"]
        for kind in HEADINGS
        for pair in worst.get(kind, [])[:MAX_STRIPS]
    ]
    return Table("The worst pairs", ["", "row of the pair file", "score", "templates"], rows)


class _TemplateImages:
    """Reads and aligns the available images of a template."""

    def __init__(self, protocol: IjbProtocol) -> None:
        self._protocol = protocol
        self._order = np.argsort(protocol.face_templates, kind="stable")
        self._sorted = protocol.face_templates[self._order]

    def images(self, template_id: int) -> list[np.ndarray]:
        """Returns up to `MAX_IMAGES` aligned images (S, S, 3) of a template."""
        row = int(np.searchsorted(self._protocol.template_ids, template_id))
        left, right = np.searchsorted(self._sorted, [row, row + 1])
        faces = self._order[left:right]
        if len(faces) > MAX_IMAGES:  # spread over the template: neighbours are frames of one video
            faces = faces[np.linspace(0, len(faces) - 1, MAX_IMAGES).round().astype(int)]
        found = []
        for image in self._protocol.face_images[faces].tolist():
            if not 0 <= image < self._protocol.num_listed:
                continue
            try:
                pixels = decode_rgb(read_image_file(self._protocol.image_path(image)))
                found.append(align(pixels, self._protocol.landmarks[image]))
            except (FacekdError, OSError):
                continue  # the evaluation has reported it already; here it is just left out
        return found
