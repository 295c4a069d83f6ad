"""Unpickles verification packs without running code from them, in memory bounded by the size of the file.

The unpickler knows none of Python's or numpy's own classes, only the few inert stand-ins below. Not even numpy's
`dtype.__setstate__` sees the content of the file, because flags can make it turn bytes into pointers. A pickle can also
have one object copied many times: that is limited by the size of the file, as all is that `BoundedUnpickler` bounds.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, NoReturn

import numpy as np

from facekd.utils.bounded_pickle import BoundedUnpickler, bounded_dispatch
from facekd.utils.foreign import MAX_DIMENSIONS, shown

# An empty dictionary or set takes four times as much as an empty list. A pack has about eight building opcodes per
# image, so the limit leaves room for tiny images, and keeps the memory below some 20 times the size of the file.
COSTS = dict.fromkeys(pickle.EMPTY_DICT + pickle.DICT + pickle.EMPTY_SET, 4)


def load_pairs(content: bytes) -> Any:
    """Returns the content of a pickled pack: lists, tuples, numbers, bytes, and an `ArrayStandIn` for each array.

    Raises:
        RefusedGlobalError: the pickle names something that no pack needs; the message is that name.
        Exception: the pickle is damaged; anything can be raised (EOFError, KeyError, MemoryError, ...).
    """
    return _PairUnpickler(content).load()


class _Budget:
    """Limits the bytes that stand-ins may make: in total as many as the file has."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._left = self._limit = limit

    def spent(self, content: bytes) -> bytes:
        """Subtracts the bytes from the budget and returns them."""
        self._left -= len(content)
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"it copies the same bytes until they are more than the {self._limit:,} of the file: it seems made to "
                "exhaust the memory"
            )
        return content


class RefusedGlobalError(pickle.UnpicklingError):
    """Raised if the pickle names something that is not in the list below."""


class _Inert:
    """Stands in for a global of the pickle. It has no attributes, because the BUILD opcode could set them."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle tries to alter a global")

    def __call__(self, *arguments: Any) -> Any:
        raise pickle.UnpicklingError(f"the pickle misuses {type(self).__name__.strip('_')}")


class _ArrayClass(_Inert):
    """Stands in for `numpy.ndarray`, which is only passed to `_reconstruct`."""

    __slots__ = ()


class _Reconstruct(_Inert):
    """Stands in for `numpy.core.multiarray._reconstruct(ndarray, (0,), "b")`: an empty array, whose state follows."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayStandIn:
        return ArrayStandIn()


class _FromBuffer(_Inert):
    """Stands in for `numpy.core.numeric._frombuffer(buffer, dtype, shape, order)`: arrays of pickle protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayStandIn:
        buffer, dtype, shape, order = arguments
        array = ArrayStandIn()
        content = buffer if isinstance(buffer, bytes) else self._budget.spent(_raw(buffer))
        array.__setstate__((1, shape, dtype, order in ("F", b"F"), content))
        return array


class _Dtype(_Inert):
    """Stands in for `numpy.dtype("u1", ...)`. Its state (byte order, alignment) does not matter for one-byte types."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _DtypeStandIn:
        return _DtypeStandIn(_text(arguments[0]))


class _Scalar(_Inert):
    """Stands in for `numpy.core.multiarray.scalar(dtype, bytes)`: a label stored as numpy.bool_ or a numpy integer."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        dtype, content = arguments
        return dtype.from_bytes(_raw(content))[0].item()


class _Encode(_Inert):
    """Stands in for `_codecs.encode(text, "latin1")`, by which Python 3 writes bytes in protocols 0 to 2."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        text, encoding = arguments
        if not isinstance(text, str) or _text(encoding).replace("-", "").replace("_", "") not in ("latin1", "iso88591"):
            raise pickle.UnpicklingError("the pickle encodes something other than latin1 text")
        return self._budget.spent(text.encode("latin1"))


class _Bytes(_Inert):
    """Stands in for `bytes()` and `bytearray(b"...")`: empty bytes in protocol 2, and byte arrays before protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        content = arguments[0] if arguments else b""
        # Bytes stay what they are: counted twice, those that `_Encode` has just made would be more than the file.
        return content if isinstance(content, bytes) else self._budget.spent(_raw(content))


class _DtypeStandIn:
    """Holds one of the element types that a pack can need."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name.lstrip("|<=")

    def __setstate__(self, state: Any) -> None:
        # State of numpy's dtype: (version, byte order, ...). Big-endian labels would be misread silently.
        if _text(state[1]) == ">":
            raise pickle.UnpicklingError("the pickle holds big-endian arrays")

    def from_bytes(self, content: bytes) -> np.ndarray:
        if self.name not in ("u1", "b1", "bool", "uint8", "i1", "i4", "i8", "u4", "u8"):
            raise pickle.UnpicklingError(
                f"the pickle holds an array of type {shown(self.name)!r}; expected bytes or booleans"
            )
        return np.frombuffer(content, np.dtype(self.name))


class ArrayStandIn:
    """Holds an array of the pickle that is not checked yet."""

    __slots__ = ("content", "dtype", "is_fortran", "shape")

    def __init__(self) -> None:
        # A damaged pickle may never give them.
        self.shape: Any = None
        self.dtype: Any = None
        self.is_fortran: Any = None
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def resolve(self) -> np.ndarray | list[Any]:
        """Returns the array, or the list of objects in an object array.

        Raises:
            ValueError, TypeError, pickle.UnpicklingError, ...: the array is damaged.
        """
        shape, dtype, content = tuple(self.shape), self.dtype, self.content
        if len(shape) > MAX_DIMENSIONS or not all(type(length) is int for length in shape):
            raise ValueError(f"its shape is no row of up to {MAX_DIMENSIONS} whole numbers")
        if dtype.name in ("O", "O8", "object"):
            if not isinstance(content, list) or len(content) != math.prod(shape):
                raise ValueError("an object array without its objects")
            return content
        array = dtype.from_bytes(_raw(content))
        return array.reshape(shape, order="F" if self.is_fortran else "C")


_GLOBALS: dict[tuple[str, str], type[_Inert]] = {
    ("_codecs", "encode"): _Encode,
    # Python 2, and Python 3 in protocols 0 to 2, write __builtin__.
    **{(module, name): _Bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Dtype,
    # numpy 1 writes numpy.core, numpy 2 numpy._core.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _PairUnpickler(BoundedUnpickler):
    dispatch = bounded_dispatch(COSTS, pickle.NEWOBJ + pickle.NEWOBJ_EX)

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), len(content), encoding="bytes")
        budget = _Budget(len(content))
        self._globals = {name: stand_in(budget) for name, stand_in in _GLOBALS.items()}

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._globals[module_name, global_name]
        except KeyError:
            raise RefusedGlobalError(f"{module_name}.{global_name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle refers to objects outside itself")


def _text(value: Any) -> str:
    if not isinstance(value, bytes | str):  # writing out tuples that hold each other would take for ever
        raise pickle.UnpicklingError(f"expected text, found {type(value).__name__}")
    return value.decode("latin1") if isinstance(value, bytes) else value


def _raw(value: Any) -> bytes:
    if isinstance(value, str):  # unicode of Python 2, in protocols 0 to 2
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise pickle.UnpicklingError(f"expected bytes, found {type(value).__name__}")
    return value if isinstance(value, bytes) else bytes(value)
