"""Holds the results of a search, and writes them for the terminal and as JSON and CSV (docs/embedding.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facekd.faces.decisions import Decision
from facekd.faces.gallery import Gallery
from facekd.faces.json_entries import face_entry, place_text
from facekd.faces.search.nearest import Nearest
from facekd.faces.search.probes import Probes
from facekd.files.writing import atomic_open
from facekd.pages.tables import Table
from facekd.utils.wording import counted

FORMAT, VERSION = "facekd-search", 1
CSV_HEAD = ("probe", "left", "top", "right", "bottom", "rank", "person", "image", "cosine", "accepted")


@dataclass(frozen=True)
class Match:
    """Holds one face of the gallery that is near a probe.

    Attributes:
        row: its row in the gallery.
        person: who it is, or "".
        image: the image that it is from.
        cosine: cosine of the probe with it.
        is_accepted: whether the threshold takes the two for one person; None without a threshold.
    """

    row: int
    person: str
    image: str
    cosine: float
    is_accepted: bool | None

    @property
    def verdict(self) -> str:
        """Returns in words what the threshold makes of it; empty without one."""
        return "" if self.is_accepted is None else "accepted" if self.is_accepted else "below the threshold"


@dataclass(frozen=True)
class SearchResults:
    """Holds what a search found.

    Attributes:
        gallery: the gallery, read from `path`.
        path: its file.
        probes: the Q faces searched for, and the images without one.
        nearest: the nearest faces to each.
        decision: the threshold, or None.
        by_person: whether only the nearest face of each person counts.
    """

    gallery: Gallery
    path: Path
    probes: Probes
    nearest: Nearest
    decision: Decision | None
    by_person: bool

    def __len__(self) -> int:
        """Returns the number of probes Q."""
        return len(self.probes.faces)

    def matches(self, probe: int) -> list[Match]:
        """Returns the nearest faces to a probe, the nearest first."""
        rows, cosines = self.nearest.rows[probe].tolist(), self.nearest.cosines[probe].tolist()
        accepts = (lambda cosine: None) if self.decision is None else self.decision.accepts
        return [
            Match(row, str(self.gallery.people[row]), str(self.gallery.names[row]), cosine, accepts(cosine))
            for row, cosine in zip(rows, cosines, strict=True)
        ]

    def num_found(self) -> int | None:
        """Returns how many probes have a match that the threshold accepts; None without a threshold."""
        if self.decision is None:
            return None
        return int(np.count_nonzero(self.nearest.cosines[:, 0] >= self.decision.threshold))

    def sentences(self) -> list[str]:
        """Says what was searched for in what, how many were found, and what the threshold is known to accept."""
        known = len({*self.gallery.people.tolist()} - {""})
        found, listed = self.num_found(), self.nearest.rows.shape[1]
        one, many = ("person", "people") if self.by_person and known else ("face", "faces")
        nearest = f"the nearest {one} is" if listed == 1 else f"the nearest {listed:,} {many} are"
        lines = [
            f"{counted(len(self), 'face')} searched for among {len(self.gallery):,} of {counted(known, 'person')} in "
            f"{self.path}; of each {nearest} listed"
        ]
        if found is not None and self.decision is not None:
            lines.append(f"{found:,} found; for {len(self) - found:,} nobody reaches the threshold")
            lines += self.decision.describe()
            estimate = self.decision.describe_search(len(self.gallery))
            lines += [estimate] if estimate else []
        own = {*self.gallery.names.tolist()}  # not by numpy, which gives all names the room of the longest
        num_own = sum(name in own for name in self.probes.faces.names.tolist())
        if num_own:
            there = "from images of the gallery, and"
            lines.append(
                counted(num_own, f"probe is {there} finds itself there", f"probes are {there} find themselves there")
            )
        return lines

    def table(self, most: int) -> Table:
        """Returns the matches of the first probes as a table."""
        rows = []
        for probe in range(min(len(self), most)):
            for rank, match in enumerate(self.matches(probe), 1):
                name = self.name_of(probe) if rank == 1 else ""
                rows.append([name, f"{rank}", match.person, match.image, f"{match.cosine:.4f}", match.verdict])
        last = [] if self.decision is None else ["threshold"]
        return Table("", ["probe", "", "person", "image", "cosine", *last], [row[: 5 + len(last)] for row in rows])

    def name_of(self, probe: int) -> str:
        """Names a probe by its image, and by its place in there if that is known and the image shows several."""
        faces = self.probes.faces
        name = str(faces.names[probe])
        if np.count_nonzero(faces.names == name) < 2 or not np.isfinite(faces.boxes[probe]).all():
            return name
        return f"{name} {place_text(faces.boxes[probe])}"

    def as_json(self) -> dict[str, Any]:
        """Returns everything in plain values for JSON."""
        faces = self.probes.faces
        probes = [
            {
                "image": str(faces.names[probe]),
                "person": str(faces.people[probe]),
                **face_entry(faces.boxes[probe], faces.landmarks[probe], float(faces.scores[probe])),
                "matches": [
                    {
                        "row": match.row,
                        "person": match.person,
                        "image": match.image,
                        "cosine": match.cosine,
                        "accepted": match.is_accepted,
                    }
                    for match in self.matches(probe)
                ],
            }
            for probe in range(len(self))
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            "gallery": {"path": str(self.path), "num_faces": len(self.gallery)},
            "best_of": "person" if self.by_person else "face",
            "decision": None if self.decision is None else self.decision.as_json(),
            "num_found": self.num_found(),
            "probes": probes,
            "without_face": [vars(one) for one in self.probes.without],
        }

    def write_csv(self, path: Path) -> None:
        """Writes one line for each match, under `CSV_HEAD`; the box is empty for an aligned crop."""
        with atomic_open(path) as stream:
            text = io.TextIOWrapper(stream, "utf-8", "backslashreplace", newline="", write_through=True)
            csv.writer(text, lineterminator="\n").writerows(self._csv_rows())
            text.detach()

    def _csv_rows(self) -> Iterator[list[Any]]:
        yield list(CSV_HEAD)
        faces = self.probes.faces
        for probe in range(len(self)):
            box = faces.boxes[probe]
            place = [f"{value:.3f}" for value in box] if np.isfinite(box).all() else [""] * 4
            for rank, match in enumerate(self.matches(probe), 1):
                accepted = "" if match.is_accepted is None else str(match.is_accepted).lower()
                yield [
                    *(str(faces.names[probe]), *place),
                    *(rank, match.person, match.image, repr(match.cosine), accepted),
                ]
