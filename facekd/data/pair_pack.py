"""Verification packs (`.bin`): pickled `(encoded images, is_same)`, read without running anybody's code.

The packs of the field (LFW, CFP-FP, AgeDB-30, ...) are Python pickles, that is programs. They are read here by an
unpickler that hands the pickle machine none of Python's or numpy's own classes, only the few inert stand-ins below:
not even numpy's `dtype.__setstate__`, which can be fed flags that turn bytes into pointers, sees the file's content.
Image 2i and image 2i + 1 make pair i. The order of the pairs carries the folds (contiguous tenths) and is kept.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from facekd.errors import FacekdError
from facekd.files import atomic_open

ZIP_START = b"PK\x03\x04"


class PairPackError(FacekdError):
    """A verification pack that cannot be read, or an attempt to write one that could not be read back."""


@dataclass(frozen=True)
class PairPack:
    """N pairs of encoded images.

    Attributes:
        images: 2N encoded images (JPEG or PNG bytes); pair i is images 2i and 2i + 1.
        is_same: bool (N,), true where the two images of a pair show one person.
        subjects: str (N, 2), who the images of each pair show; None in a `.bin`, which does not say.
        fold_of: int64 (N,), the fold of each pair, from 0; None in a `.bin`, whose folds are contiguous tenths.
    """

    images: list[bytes]
    is_same: np.ndarray
    subjects: np.ndarray | None = None
    fold_of: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of pairs N."""
        return len(self.is_same)


def read_pair_pack(path: str | os.PathLike[str]) -> PairPack:
    """Read a verification pack: a `.bin` written by Python 2 or 3, with images as bytes, `str` or uint8 arrays (n,) or
    (n, 1); or facekd's own `.npz`, which is no pickle.

    Args:
        path: the file; which of the two it is shows in its first bytes.

    Returns:
        The pairs, in the order of the file; images stay encoded (see `decode_images`).

    Raises:
        PairPackError: the file is no pack, is cut short, asks for code to be run, or holds an odd number of images,
            a different number of labels than pairs, labels that are not true or false, or an empty image.
        OSError: the file cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    if content.startswith(ZIP_START):
        from facekd.data.native_pair_pack import parse_native_pair_pack  # here: it builds on this module

        return parse_native_pair_pack(content, str(path))
    try:
        _check_claims(content)
        loaded = _PairUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _RefusedGlobal as error:
        raise PairPackError(
            f"{path}: refused: the pickle asks for {error}, which no verification pack needs and which could run "
            "code of whoever wrote the file; use packs from a source you trust, or rebuild it with write_pair_pack"
        ) from None
    except Exception as error:
        # A damaged pickle fails inside the machine in any way at all (EOFError, KeyError, MemoryError, ...).
        raise PairPackError(
            f"{path}: not a readable verification pack ({len(content):,} bytes): {type(error).__name__}: {error}; "
            "expected a pickled (images, is_same); the file is cut short, damaged or of another kind: fetch it again"
        ) from error
    return validate_pairs(loaded, str(path))


def write_pair_pack(
    path: str | os.PathLike[str], images: Sequence[bytes | np.ndarray], is_same: Sequence[bool] | np.ndarray
) -> None:
    """Write a verification pack that InsightFace's readers and `read_pair_pack` load; atomic.

    Args:
        path: the `.bin` file; an old one is replaced only once the new one is whole.
        images: 2N encoded images, bytes or uint8 arrays (n,) / (n, 1); pair i is images 2i and 2i + 1.
        is_same: N booleans (or 0 / 1).

    Raises:
        PairPackError: the counts do not match, or an image is empty or not bytes.
    """
    pack = validate_pairs((list(images), list(is_same)), str(path))
    with atomic_open(path) as stream:
        # Protocol 4: the bytes are stored as they are, and any Python 3 reads it.
        pickle.dump((pack.images, pack.is_same.tolist()), stream, protocol=4)


def decode_images(
    images: Sequence[bytes | np.ndarray], first_image: int = 0, source: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """Decode images into one array.

    Args:
        images: B encoded images (JPEG, PNG, ...), for instance a slice of `PairPack.images`.
        first_image: number of `images[0]` in its pack, for error messages when decoding a slice.
        source: path of the pack, for error messages.

    Returns:
        uint8 (B, H, W, 3), RGB.

    Raises:
        PairPackError: an image does not decode, or has another size than the first; names the image and its pair.
    """
    if not len(images):
        raise PairPackError(f"{source or 'verification pack'}: no images to decode")
    batch: np.ndarray | None = None
    for i, image in enumerate(images):
        where = f"{source or 'verification pack'}: image {first_image + i} (pair {(first_image + i) // 2})"
        encoded = np.frombuffer(_as_bytes(image, where), np.uint8)
        try:
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        except cv2.error:
            decoded = None
        if decoded is None:
            raise PairPackError(
                f"{where} does not decode: {encoded.size:,} bytes starting {encoded[:8].tobytes().hex(' ')}; "
                "expected JPEG or PNG; fetch or rebuild the pack"
            )
        if batch is None:
            batch = np.empty((len(images), *decoded.shape), np.uint8)
        elif decoded.shape != batch.shape[1:]:
            height, width = batch.shape[1:3]
            raise PairPackError(
                f"{where} is {decoded.shape[1]}x{decoded.shape[0]} pixels, the first of its batch {width}x{height}; "
                "all images of a pack must have one size: align or resize them alike and rebuild it"
            )
        cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=batch[i])
    assert batch is not None
    return batch


def validate_pairs(loaded: Any, where: str) -> PairPack:
    """Turn `(images, is_same)`, as a file held them, into a `PairPack`, or say what is wrong with it."""
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise PairPackError(f"{where}: expected a pair (images, is_same), found {_describe(loaded)}")
    images, is_same = (
        _as_sequence(part, name, where) for part, name in zip(loaded, ("images", "is_same"), strict=True)
    )
    if not images:
        raise PairPackError(f"{where}: holds no images")
    if len(images) % 2:
        raise PairPackError(f"{where}: holds {len(images):,} images, an odd number; pair i is images 2i and 2i + 1")
    if len(is_same) != len(images) // 2:
        raise PairPackError(
            f"{where}: holds {len(images):,} images, so {len(images) // 2:,} pairs, but {len(is_same):,} labels"
        )
    labels = np.empty(len(is_same), np.bool_)
    for i, label in enumerate(is_same):
        if not isinstance(label, bool | int | np.bool_ | np.integer) or label not in (0, 1):
            raise PairPackError(f"{where}: label of pair {i} is {_describe(label)}; expected true or false")
        labels[i] = bool(label)
    encoded = [_as_bytes(image, f"{where}: image {i} (pair {i // 2})") for i, image in enumerate(images)]
    return PairPack(encoded, labels)


def _as_sequence(part: Any, name: str, where: str) -> Sequence[Any]:
    part = part.resolve(f"{where}: {name}") if isinstance(part, _ArrayStandIn) else part
    if isinstance(part, np.ndarray) and part.ndim in (1, 2) and part.size == len(part):
        return part.reshape(-1).tolist()
    if isinstance(part, tuple | list):
        return part
    raise PairPackError(f"{where}: {name} is {_describe(part)}; expected a list")


def _as_bytes(image: Any, where: str) -> bytes:
    image = image.resolve(where) if isinstance(image, _ArrayStandIn) else image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size != max(image.shape, default=0):
            raise PairPackError(
                f"{where} is a {image.dtype} array of shape {image.shape}; expected encoded bytes, uint8 (n,) or (n, 1)"
            )
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray | memoryview):
        raise PairPackError(f"{where} is {_describe(image)}; expected the bytes of a JPEG or PNG")
    if not len(image):
        raise PairPackError(f"{where} is empty")
    return bytes(image)


def _describe(value: Any) -> str:
    size = f" of {len(value):,}" if isinstance(value, tuple | list | bytes | str | dict) else ""
    text = f" {value}" if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63) else ""
    return f"{type(value).__name__}{size}{text}"


def _check_claims(content: bytes) -> None:
    """Refuse a pickle whose opcodes make the machine reserve more memory than the file has bytes."""
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(
                f"opcode {opcode.name} at byte {position:,} names place {argument:,} of the memo"
            )


class _RefusedGlobal(pickle.UnpicklingError):
    """The pickle names something outside the list below."""


class _Inert:
    """A stand-in for a global of the pickle. It cannot be altered: the BUILD opcode sets attributes at will."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle tries to alter a global")

    def __call__(self, *arguments: Any) -> Any:
        raise pickle.UnpicklingError(f"the pickle misuses {type(self).__name__.strip('_')}")


class _ArrayClass(_Inert):
    """`numpy.ndarray`, only ever handed to `_reconstruct`."""

    __slots__ = ()


class _Reconstruct(_Inert):
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), "b")`: an empty array, whose state follows."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _ArrayStandIn:
        return _ArrayStandIn()


class _FromBuffer(_Inert):
    """`numpy.core.numeric._frombuffer(buffer, dtype, shape, order)`: arrays of pickle protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _ArrayStandIn:
        buffer, dtype, shape, order = arguments
        array = _ArrayStandIn()
        array.__setstate__((1, shape, dtype, _text(order) == "F", bytes(buffer)))
        return array


class _Dtype(_Inert):
    """`numpy.dtype("u1", ...)`; its state (byte order and alignment) is of no use to one-byte types and is dropped."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _DtypeStandIn:
        return _DtypeStandIn(_text(arguments[0]))


class _Scalar(_Inert):
    """`numpy.core.multiarray.scalar(dtype, bytes)`: a label held as numpy.bool_ or a numpy integer."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        dtype, content = arguments
        return dtype.from_bytes(_raw(content))[0].item()


class _Encode(_Inert):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes under protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        text, encoding = arguments
        if not isinstance(text, str) or _text(encoding).replace("-", "").replace("_", "") not in ("latin1", "iso88591"):
            raise pickle.UnpicklingError("the pickle encodes something other than latin1 text")
        return text.encode("latin1")


class _Bytes(_Inert):
    """`bytes()` and `bytearray(b"...")`: the empty bytes of protocol 2, and byte arrays before protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        return b"".join(_raw(argument) for argument in arguments[:1])


class _DtypeStandIn:
    """One of the element types a pack can need."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name.lstrip("|<=")

    def __setstate__(self, state: Any) -> None:
        # State of numpy's dtype: (version, byte order, ...). Big-endian labels would be misread silently.
        if _text(state[1]) == ">":
            raise pickle.UnpicklingError("the pickle holds big-endian arrays")

    def from_bytes(self, content: bytes) -> np.ndarray:
        if self.name not in ("u1", "b1", "bool", "uint8", "i1", "i4", "i8", "u4", "u8"):
            raise pickle.UnpicklingError(f"the pickle holds an array of type {self.name!r}; expected bytes or booleans")
        return np.frombuffer(content, np.dtype(self.name))


class _ArrayStandIn:
    """An array of the pickle before it is checked."""

    __slots__ = ("content", "dtype", "is_fortran", "shape")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def resolve(self, where: str) -> np.ndarray | list[Any]:
        """The array itself; for an object array, the list of what it holds."""
        try:
            shape, dtype, content = tuple(self.shape), self.dtype, self.content
            if dtype.name in ("O", "O8", "object"):
                if not isinstance(content, list) or len(content) != np.prod(shape):
                    raise ValueError("an object array without its objects")
                return content
            array = dtype.from_bytes(_raw(content))
            return array.reshape(shape, order="F" if self.is_fortran else "C")
        except Exception as error:
            raise PairPackError(f"{where} is a damaged numpy array ({error}); fetch the pack again") from error


_GLOBALS: dict[tuple[str, str], _Inert] = {
    ("_codecs", "encode"): _Encode(),
    # Python 2, and Python 3 under protocols 0 to 2, say __builtin__.
    **{(module, name): _Bytes() for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    ("numpy", "ndarray"): _ArrayClass(),
    ("numpy", "dtype"): _Dtype(),
    # numpy 1 and Python 2 say numpy.core, numpy 2 says numpy._core
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


class _PairUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _GLOBALS[module_name, global_name]
        except KeyError:
            raise _RefusedGlobal(f"{module_name}.{global_name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle refers to objects outside itself")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _raw(value: Any) -> bytes:
    if isinstance(value, str):  # protocol 0 to 2 of Python 2 unicode
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise pickle.UnpicklingError(f"expected bytes, found {type(value).__name__}")
    return bytes(value)
