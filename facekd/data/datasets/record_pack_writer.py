"""Writes a whole data set as RecordIO: the image records, and the records and files that each layout adds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from facekd.commands.places import files_beside_pack
from facekd.data.datasets.record_layout import Layout
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS, Header, pack
from facekd.data.recordio.writer import RecordWriter
from facekd.errors import RecordError
from facekd.files.resumable_file import is_begun, is_unfinished_result
from facekd.utils.progress import track


def rec_path_of(output: str | os.PathLike[str]) -> Path:
    """Returns the `.rec` file that `output` names: itself if it ends in .rec, else `train.rec` in that folder."""
    output = Path(output)
    return output if output.suffix == ".rec" else output / "train.rec"


def refuse_files_of_others(rec_path: Path) -> None:
    """Raises a `RecordError` if a file that will lie beside a new pack is there already."""
    for path in files_beside_pack(rec_path):
        if path.exists():
            raise RecordError(
                f"{path} is there already, and a file of {rec_path} would replace it; choose another place, or replace "
                "it by --force"
            )


class RecordPackWriter:
    """Writes `train.rec`, `train.idx`, `train.lst` and `property`, as InsightFace's or mxnet's tools would.

        with RecordPackWriter("shards", image_size=112) as writer:
            for label, name, jpeg in faces:  # grouped by label, from 0 upwards
                writer.add(label, jpeg, name)

    In the `"insightface"` layout images are grouped by identity under keys from 1, with label arrays `[label, 1]`;
    identity records and the header record follow when the writer is closed. In the `"im2rec"` layout images have
    keys from 0 and scalar labels. On an exception inside the block the new files are removed; with a job, what took
    more than a few seconds is kept, and the same job continues from it:

        with RecordPackWriter("shards", 112, job={"source": digest}) as writer:
            for task in range(writer.next_task, len(faces)):
                writer.add(*faces[task], task=task)

    Attributes:
        next_task: the task to continue with: 0, or the one after the last image that an earlier run has written.
        num_found: number of images of that run.
        before_in_place: called when all files are written and none has its name, if a caller sets it.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        image_size: int,
        layout: Layout = "insightface",
        job: Mapping[str, Any] | None = None,
        is_unchanged: Callable[[int, str], bool] | None = None,
        num_classes: int | None = None,
        replace: bool = True,
    ) -> None:
        """Starts writing, or continues an earlier run.

        Args:
            output: a folder, which gets `train.*`; or the `.rec` file to write.
            image_size: side of the images in pixels, written to `property`.
            layout: which records to write.
            job: everything else that decides what will be written, as JSON: which images there are, and what is done
                to them. None keeps nothing of a run that is stopped.
            is_unchanged: called for each image of an earlier run with its task and the stamp given to `add`; if it
                returns False for one, everything is written again.
            num_classes: number of identities, for `property`, if the images are not of all; by default the highest
                label plus one.
            replace: whether to replace a pack that is there already, or files of the names that lie beside one, if
                they are not the end of this very job.

        Raises:
            InUseError: another process is writing there.
            RecordError: a pack or a file is there that `replace` does not allow to replace.
        """
        self.rec_path: Path = rec_path_of(output)
        self.image_size = image_size
        self.layout = layout
        self.before_in_place: Callable[[], None] | None = None
        self._declared_classes = num_classes
        # Open the files; with a job, the images of an earlier run are in them.
        whole_job = None if job is None else {"layout": layout, "image_size": image_size, **job}
        taken = RecordError(f"{self.rec_path} is there already; choose another place, or replace it by --force")
        if not replace and self.rec_path.exists() and not is_unfinished_result(self.rec_path, whole_job):
            raise taken
        if not replace and not self.rec_path.exists() and not is_begun(self.rec_path, whole_job):
            refuse_files_of_others(self.rec_path)
        self._writer = RecordWriter(self.rec_path, job=whole_job)
        # Another process may have finished the pack before the writer got its lock. The end of this very job is none:
        # the writer has made it partial again.
        if not replace and self.rec_path.exists():
            self._writer.abort()
            raise taken
        self._begin()
        # Start again if one of those has changed since.
        if is_unchanged is not None:
            found = track(self._writer.found(), "checking images written before", len(self._writer))
            fields = (note.split("\t", 3) for _, note in found)
            if not all(is_unchanged(int(task), stamp) for task, _, stamp, _ in fields):
                self._writer.restart()
        # Continue after the last of them.
        for key, note in self._writer.found():
            task, label, _, name = note.split("\t", 3)
            self._account(int(label), key, name)
            self.next_task = int(task) + 1
        self.num_found: int = self.num_images

    def restart(self) -> None:
        """Discards what an earlier run has written."""
        self._writer.restart()
        self._begin()
        self.num_found = 0

    def _begin(self) -> None:
        self._next_key = 1 if self.layout == "insightface" else 0
        self._list: list[str] = []
        self._first_keys: list[int] = []  # the first key of each identity, in the InsightFace layout
        self._highest_label = -1
        self.next_task: int = 0

    @property
    def num_images(self) -> int:
        return len(self._list)

    @property
    def num_classes(self) -> int:
        return self._highest_label + 1

    @property
    def partial_path(self) -> Path:
        """Names the file that holds the records until the writer is closed."""
        return self._writer.partial_path

    @property
    def num_kept(self) -> int:
        """After an exception in the block, the number of images kept for the same job to continue from."""
        return self._writer.num_kept

    def add(
        self,
        label: int,
        image_bytes: bytes,
        name: str = "",
        key: int | None = None,
        task: int | None = None,
        stamp: str = "",
    ) -> int:
        """Appends an image.

        Args:
            label: identity of the image, from 0. InsightFace's layout needs ascending labels; a label that is left out
                has no images.
            image_bytes: encoded image, JPEG or PNG.
            name: path of the image below the image folder, for the `.lst`; by default made from label and key.
            key: key of the record, in the im2rec layout only; by default the number of the image.
            task: number of this task of the job, in ascending order; tasks in between count as done.
            stamp: text without tabs that differs if the image has changed; see `is_unchanged`.

        Returns:
            The key of the record.

        Raises:
            RecordError: labels out of order, no image bytes, or a label that float32 cannot hold.
        """
        if key is not None and self.layout == "insightface":
            raise RecordError(f"{self.rec_path}: the InsightFace layout has keys of its own", key=key)
        key = self._next_key if key is None else key
        name = name or f"{label:07d}/{key:08d}.jpg"
        if not image_bytes:
            raise RecordError(f"{self.rec_path}: {name} has no bytes", key=key)
        if label < 0:
            raise RecordError(f"{self.rec_path}: {name} has label {label}; labels start at 0", key=key)
        if label >= EXACT_FLOAT32_INTEGERS:
            raise RecordError(
                f"{self.rec_path}: {name} has label {label}; labels are below {EXACT_FLOAT32_INTEGERS:,}, beyond which "
                "float32, which records hold them in, rounds",
                key=key,
            )
        if any(character in name for character in "\t\n\r"):
            raise RecordError(f"{self.rec_path}: {name!r}: names with tabs or line breaks do not fit a list", key=key)
        if self.layout == "insightface":
            self._check_order(label, key, name)
            payload = pack(Header(2, np.array([label, 1], dtype=np.float32), key, 0), image_bytes)
        else:
            payload = pack(Header(0, label, key, 0), image_bytes)
        task = self.next_task if task is None else task
        self._writer.write(key, payload, f"{task}\t{label}\t{stamp}\t{name}")
        self._account(label, key, name)
        self.next_task = task + 1
        return key

    def _account(self, label: int, key: int, name: str) -> None:
        """Records an image that has been written."""
        if self.layout == "insightface":
            # Identities without images get the empty range [key, key).
            self._first_keys += [key] * (label + 1 - len(self._first_keys))
            self._list.append(f"1\t{name}\t{label}")
        else:
            self._list.append(f"{key}\t{label}\t{name}")
        self._next_key += 1
        self._highest_label = max(self._highest_label, label)

    def add_file(self, name: str, content: bytes) -> None:
        """Adds a file to the folder of the pack, put in place with it: before the `.rec`, which says that all is done.

        Args:
            name: its name.
            content: what is in it.
        """
        self._writer.add_file(self.rec_path.parent / name, content)

    def close(self) -> None:
        """Writes the records that follow the images, and puts all files in place."""
        if self.num_images == 0:
            self.abort()
            raise RecordError(f"{self.rec_path}: there are no images to write")
        try:
            if self.layout == "insightface":
                self._write_identities()
            # Names of files need not be Unicode; readers of the list get their bytes back.
            lines = ("\n".join(self._list) + "\n").encode("utf-8", "surrogateescape")
            self.add_file(self.rec_path.with_suffix(".lst").name, lines)
            num_classes = self.num_classes if self._declared_classes is None else self._declared_classes
            self.add_file("property", f"{num_classes},{self.image_size},{self.image_size}\n".encode())
        except BaseException:
            self.abort()
            raise
        self._writer.close(self.before_in_place)

    def abort(self) -> None:
        """Stops: removes what was written, or keeps it for the same job if it took a while."""
        self._writer.abort()

    def __enter__(self) -> RecordPackWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _check_order(self, label: int, key: int, name: str) -> None:
        current = len(self._first_keys) - 1
        if label < current:
            raise RecordError(
                f"{self.rec_path}: {name} has label {label} after label {current}: in the InsightFace layout the "
                "images of an identity lie together, in ascending order of label. Sort them first",
                key=key,
            )

    def _write_identities(self) -> None:
        first_identity = self._next_key
        bounds = [*self._first_keys, first_identity]
        for label in range(len(self._first_keys)):
            key = first_identity + label
            images = np.array(bounds[label : label + 2], dtype=np.float32)
            self._writer.write(key, pack(Header(2, images, key, 0), b""), note=None)
        identities = np.array([first_identity, first_identity + len(self._first_keys)], dtype=np.float32)
        # mxnet's face packs have id 0 and id2 1 here.
        self._writer.write(0, pack(Header(2, identities, 0, 1), b""), note=None)
