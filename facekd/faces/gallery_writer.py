"""Writes a gallery while images are embedded, so that an interrupted run can go on.

Rows lie in `.NAME.rows.partial` until all images are done, and its journal says for each image how many faces it has,
or why none. Only then is the gallery written.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.faces.embedding import EmbeddedFaces, row_type, rows_to_keep
from facekd.faces.finding import IMAGE_REASONS
from facekd.faces.gallery import Gallery, Origin, write_gallery
from facekd.faces.image_inputs import Images
from facekd.files.resumable_file import ResumableFile, is_begun
from facekd.files.writing import atomic_open, atomic_open_together
from facekd.utils.terminal import on_one_line
from facekd.utils.text_arrays import require_even_lengths
from facekd.utils.wording import counted

SEVERAL = "several_faces"
REPORT_HEAD = "# image\twhat\tdetail\n"
IMAGES_AT_ONCE, SECONDS_WAITING = 64, 1.0
ADVICE_ON_SIZE = "; photographs need --detector, and aligned crops of another size --resize"


def _rows_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.rows")


@dataclass(frozen=True)
class ImageResult:
    """Says what became of one image.

    Attributes:
        num_faces: number of its faces in the gallery.
        reason: why there are none, a key of `facekd.faces.finding.IMAGE_REASONS`; None if there are some.
        detail: a sentence about that, or None.
        num_sure: number of faces that the detector is sure of.
    """

    num_faces: int
    reason: str | None = None
    detail: str | None = None
    num_sure: int = 0


class GalleryWriter:
    """Adds images in order, and in the end writes the gallery and the report on images; for `with` statements.

    Args:
        path: the gallery to write.
        images: all images that will be added.
        embedding_size: D.
        job: what else decides the content, in plain values for JSON: an unfinished gallery of another job is
            overwritten.
        may_replace: whether a gallery that is there may be replaced, even if this job did not begin it.

    Raises:
        DataError: there is one, and it may not; or one name is far longer than the others.

    Attributes:
        results: those of the images added so far, found ones among them.
        num_found: number of images that an earlier run has embedded.
    """

    def __init__(
        self, path: Path, images: Images, embedding_size: int, job: Mapping[str, Any], may_replace: bool = False
    ) -> None:
        self.path = path
        self._images = images
        self.report_path: Path = path.with_suffix(".report.tsv")
        self._row = row_type(embedding_size)
        job = {"verb": "embed", "images": images.fingerprint(), "embedding_size": embedding_size, **job}
        # A run that was stopped when its gallery had just got its name ends in peace.
        if path.exists() and not may_replace and not is_begun(_rows_path(path), job):
            raise DataError(f"{path}: is there already; choose another name, or replace it by --force")
        self._file = ResumableFile(_rows_path(path), job)
        # Whether their names fit an array is known before anything is embedded.
        for texts in (images.names, images.people):
            require_even_lengths(texts, "the images")
        self.results: list[ImageResult] = []
        self._waiting: list[EmbeddedFaces] = []
        self._next_time = 0.0
        self._find()
        self.num_found: int = len(self.results)

    def add(self, image: EmbeddedFaces) -> None:
        """Adds the faces of the next image; what became of it is in `results` a second later at the most."""
        # Many small images together: the steps below cost as much for one as for dozens.
        self._waiting.append(image)
        now = time.monotonic()
        if len(self._waiting) >= IMAGES_AT_ONCE or now >= self._next_time:
            self._next_time = now + SECONDS_WAITING
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Writes and notes what waits."""
        if not self._waiting:
            return
        images, self._waiting = self._waiting, []
        rows, counts = rows_to_keep(images)
        end = 0
        for image, count in zip(images, counts.tolist(), strict=True):
            found = image.found
            reason = "no_direction" if found.faces and not count else found.reason
            self._file.write(rows[end : end + count].tobytes())
            self._file.note(json.dumps([reason, found.detail, found.num_sure]))
            self.results.append(ImageResult(count, reason, found.detail, found.num_sure))
            end += count

    def finish(self, origin: Origin, which: str) -> int:
        """Writes the report and the gallery, when all images are added; returns the number of faces.

        Args:
            origin: how the embeddings were made.
            which: which of several faces was taken, for the report.

        Raises:
            DataError: there are no faces; the report is written all the same.
        """
        self._add_waiting()
        assert len(self.results) == len(self._images)
        self._file.checkpoint()
        counts = np.array([result.num_faces for result in self.results])
        report = "".join(self._report_lines(which)).encode("utf-8", "backslashreplace")
        num_faces = int(counts.sum())
        if not num_faces:
            with atomic_open(self.report_path) as stream:  # an older gallery stays
                stream.write(report)
            self._discard()
            raise DataError(
                f"no face in any of {counted(len(counts), 'image')}: {self.summary()}. {self.report_path} says why, "
                f"image by image{ADVICE_ON_SIZE if self.counts()['other_size'] else ''}"
            )
        rows = np.memmap(self._file.partial_path, self._row, "r", shape=(num_faces,))
        arrays = {name: rows[name] for name in ("embeddings", "norms", "boxes", "landmarks", "scores")}
        # Only of the images with faces. Their names fit, because those of all images do: what is embedded is not lost.
        shown = np.flatnonzero(counts)
        names, people = (
            np.repeat(np.array([str(texts[image]) for image in shown.tolist()], np.str_), counts[shown])
            for texts in (self._images.names, self._images.people)
        )
        with atomic_open_together(self.path, {self.report_path: True}) as streams:
            streams[self.report_path].write(report)
            write_gallery(streams[self.path], Gallery(**arrays, names=names, people=people, origin=origin))
        self._discard()
        return num_faces

    def counts(self) -> Counter[str]:
        """Returns the number of images for each reason, and of those that show several faces."""
        found = Counter(result.reason for result in self.results if result.reason is not None)
        found[SEVERAL] = sum(result.num_sure > 1 for result in self.results)
        return found

    def summary(self) -> str:
        """Returns the reasons and their numbers in words."""
        counts = self.counts()
        return ", ".join(f"{counts[reason]:,} {words}" for reason, words in IMAGE_REASONS.items() if counts[reason])

    def __enter__(self) -> GalleryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._file.is_open:
            with suppress(OSError):  # a full disk, which is told already
                self._add_waiting()
            self._file.abort()

    @property
    def num_kept(self) -> int:
        """Returns, after a stop, the number of images that the same command can go on after."""
        return self._file.num_kept

    def _find(self) -> None:
        """Reads the results of an earlier run; a journal that contradicts the rows is not trusted."""
        end, size = 0, self._row.itemsize
        with suppress(ValueError, TypeError):
            for stop, words in self._file.entries():
                reason, detail, num_sure = json.loads(words)
                if not isinstance(detail, str | None) or type(num_sure) is not int or num_sure < 0:
                    break
                result = ImageResult((stop - end) // size, reason, detail, num_sure)
                if (
                    (stop - end) % size
                    or reason not in (IMAGE_REASONS if stop == end else (None,))
                    or len(self.results) >= len(self._images)
                ):
                    break
                self.results.append(result)
                end = stop
        if end != self._file.position:
            self._file.restart()
            self.results.clear()

    def _report_lines(self, which: str) -> Iterator[str]:
        yield REPORT_HEAD
        for name, result in zip(self._images.names, self.results, strict=True):
            if result.reason is not None:
                detail = on_one_line(result.detail or IMAGE_REASONS[result.reason])
                yield f"{on_one_line(name)}\t{result.reason}\t{detail}\n"
            elif result.num_sure > 1:
                taken = "all taken" if which == "all" and result.num_sure == result.num_faces else f"{which} taken"
                yield f"{on_one_line(name)}\t{SEVERAL}\t{counted(result.num_sure, 'face')}, {taken}\n"

    def _discard(self) -> None:
        """Removes the rows: they are in the gallery."""
        self._file.restart()
        self._file.abort()
