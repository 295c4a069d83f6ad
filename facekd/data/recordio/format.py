"""Encodes and decodes the bytes of RecordIO: image headers, and payloads framed as one or several parts.

It follows dmlc-core `src/recordio.cc` (framing) and mxnet `python/mxnet/recordio.py` (image header) as of mxnet 1.9.1;
`docs/formats.md` describes both. Nothing here opens a file.
"""

from __future__ import annotations

import numbers
import os
import struct
from typing import NamedTuple

import numpy as np

from facekd.errors import RecordError
from facekd.utils.wording import agreeing, counted

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH_BITS = 29
LENGTH_MASK = (1 << LENGTH_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)  # the continuation flag in the top three bits of a part's length word
FRAME_SIZE = 8  # magic and length word
IMAGE_HEADER = struct.Struct("<IfQQ")
_FLOAT = struct.Struct("<f")
_FIRST_LABEL_END = IMAGE_HEADER.size + _FLOAT.size
EXACT_FLOAT32_INTEGERS = 1 << 24  # float32 holds every integer up to here, and only even ones just above


class Header(NamedTuple):
    """Holds what comes before the image bytes in a record.

    Attributes:
        flag: 0 for a scalar label, else how many float32 labels follow. `pack` sets it from `label`.
        label: the label, or a float32 array of labels, (flag,).
        id: the key of the record, by convention.
        id2: 0, by convention.
    """

    flag: int
    label: float | np.ndarray
    id: int
    id2: int


def pack(header: Header, image_bytes: bytes) -> bytes:
    """Returns the payload of one image record, byte for byte as mxnet's `recordio.pack` writes it.

    Args:
        header: the header; its `flag` is replaced, as in mxnet, by 0 for a scalar label or the number of labels.
        image_bytes: encoded image; empty in InsightFace's header and identity records.

    Raises:
        RecordError: the label is an integer that float32, which the format uses, cannot hold exactly.
    """
    _, label, identifier, identifier2 = header
    if isinstance(label, numbers.Real):
        if isinstance(label, numbers.Integral) and int(np.float32(label)) != int(label):
            raise RecordError(
                f"record {identifier}: label {label} does not survive float32, which RecordIO stores labels in; "
                f"class labels must be below {EXACT_FLOAT32_INTEGERS:,}",
                key=identifier,
            )
        return IMAGE_HEADER.pack(0, float(label), identifier, identifier2) + image_bytes
    labels = np.asarray(label, dtype="<f4").ravel()
    return IMAGE_HEADER.pack(len(labels), 0.0, identifier, identifier2) + labels.tobytes() + image_bytes


def unpack(payload: bytes | memoryview) -> tuple[Header, bytes]:
    """Splits the payload of a record into its header and its image bytes.

    Returns:
        `(header, image_bytes)`; `header.label` is a float, or float32 (flag,) where flag > 0.

    Raises:
        RecordError: the payload is shorter than its header says.
    """
    if len(payload) < IMAGE_HEADER.size:
        raise RecordError(
            f"a record of {counted(len(payload), 'byte')} is too short for an image header of "
            f"{counted(IMAGE_HEADER.size, 'byte')}: this RecordIO file does not hold images"
        )
    flag, label, identifier, identifier2 = IMAGE_HEADER.unpack_from(payload)
    start = IMAGE_HEADER.size + 4 * flag
    if flag == 0:
        return Header(0, label, identifier, identifier2), bytes(payload[start:])
    if len(payload) < start:
        raise RecordError(
            f"record with id {identifier}: the header announces {counted(flag, 'label')}, which "
            f"{agreeing(flag, 'takes', 'take')} {counted(start, 'byte')}, and the record has {len(payload)}: it is "
            "corrupt, or not an image record"
        )
    labels = np.frombuffer(payload, dtype="<f4", count=flag, offset=IMAGE_HEADER.size).astype(np.float32)
    return Header(flag, labels, identifier, identifier2), bytes(payload[start:])


def unpack_labelled(payload: bytes | memoryview) -> tuple[float, bytes]:
    """Returns the first label of an image record and its image bytes; it is `unpack` without making a `Header`.

    Raises:
        RecordError: as `unpack`.
    """
    if len(payload) >= _FIRST_LABEL_END:
        flag, label, _, _ = IMAGE_HEADER.unpack_from(payload)
        start = IMAGE_HEADER.size + 4 * flag
        if flag == 0:
            return label, bytes(payload[start:])
        if start <= len(payload):
            return _FLOAT.unpack_from(payload, IMAGE_HEADER.size)[0], bytes(payload[start:])
    header, image_bytes = unpack(payload)
    return first_label(header), image_bytes


def first_label(header: Header) -> float:
    """Returns the class label of an image: the scalar, or element 0 of an array (InsightFace's `[class, aligned]`)."""
    return float(header.label if header.flag == 0 else np.asarray(header.label)[0])


def are_labels(values: np.ndarray) -> np.ndarray:
    """Returns which values, of any shape, can be labels: whole numbers from 0 that float32 does not round."""
    return (values >= 0) & (values < EXACT_FLOAT32_INTEGERS) & (values == np.floor(values))


def padded(length: int) -> int:
    """Returns `length` rounded up to a multiple of 4 bytes, which is what a part occupies."""
    return (length + 3) & ~3


def frame(payload: bytes | memoryview) -> bytes:
    """Returns the bytes of a whole record in a `.rec` file: parts with their length words, and padding.

    If the payload contains the magic number at a multiple of 4 bytes from its start, a reader that searches for records
    would be misled. The format leaves out those 4 bytes and splits the record there.

    Raises:
        RecordError: the payload has 2^29 bytes or more, which the format has no room for.
    """
    payload = bytes(payload)
    if len(payload) > LENGTH_MASK:
        raise RecordError(f"a record of {counted(len(payload), 'byte')}: RecordIO holds fewer than {LENGTH_MASK + 1:,}")
    cuts = _aligned_magics(payload)
    parts = []
    start = 0
    for number, cut in enumerate([*cuts, len(payload)]):
        is_first, is_last = number == 0, number == len(cuts)
        flag = (WHOLE if is_last else FIRST) if is_first else (LAST if is_last else MIDDLE)
        parts.append(struct.pack("<II", MAGIC, flag << LENGTH_BITS | (cut - start)))
        parts.append(payload[start:cut])
        start = cut + 4
    return b"".join(parts) + bytes(padded(len(payload)) - len(payload))


def _aligned_magics(payload: bytes) -> list[int]:
    found = []
    position = payload.find(MAGIC_BYTES)
    while position >= 0:
        if position % 4 == 0:
            found.append(position)
            position = payload.find(MAGIC_BYTES, position + 4)
        else:
            position = payload.find(MAGIC_BYTES, position + 1)
    return found


def describe_file(path: str | os.PathLike[str]) -> str:
    """Returns `name (12,345 bytes)`, for error messages."""
    try:
        return f"{os.fspath(path)} ({counted(os.stat(path).st_size, 'byte')})"  # noqa: PTH116
    except OSError:
        return os.fspath(path)
