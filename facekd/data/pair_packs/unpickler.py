"""A pickle machine for verification packs, which runs nobody's code and makes no more of a file than the file holds.

It is handed none of Python's or numpy's own classes, only the few inert stand-ins below: not even numpy's
`dtype.__setstate__`, which can be fed flags that turn bytes into pointers, sees the file's content. A pickle can also
name one thing many times and have it copied, or build a hundred bytes out of one: both are bounded by its size.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

import numpy as np

# Opcodes of a byte or two that make an object of 50 bytes, or of four times that. A pack has about five of them for an
# image, so this leaves room for tiny images, and bounds the memory to some 15 times the size of the file.
BUILDING_OPCODES = {
    **dict.fromkeys(("EMPTY_LIST", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "STACK_GLOBAL"), 1),
    **dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "INST", "OBJ"), 1),
    **dict.fromkeys(("EMPTY_DICT", "DICT", "EMPTY_SET", "FROZENSET"), 4),
}
FREE_BUILDING_OPCODES = 10_000
BYTES_FOR_A_BUILDING_OPCODE = 4


def load_pairs(content: bytes) -> Any:
    """What a pickled pack holds: lists, tuples, numbers, bytes, and an `ArrayStandIn` for each array.

    Raises:
        RefusedGlobalError: it names something that no pack needs; the message is that name.
        Exception: a damaged pickle fails inside the machine in any way at all (EOFError, KeyError, MemoryError, ...).
    """
    _check_claims(content)
    return _PairUnpickler(content).load()


def _check_claims(content: bytes) -> None:
    """Refuse a pickle whose opcodes make the machine reserve far more memory than the file has bytes."""
    building = 0
    allowed = FREE_BUILDING_OPCODES + len(content) // BYTES_FOR_A_BUILDING_OPCODE
    for opcode, argument, position in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(
                f"opcode {opcode.name} at byte {position:,} names place {argument:,} of the memo"
            )
        building += BUILDING_OPCODES.get(opcode.name, 0)
        if building > allowed:
            raise pickle.UnpicklingError(
                f"it builds more than {allowed:,} objects by byte {position:,}, far more than its images need: it is "
                "made to exhaust the memory"
            )


class _Budget:
    """Bytes that stand-ins may make beyond those in the file: each as often as the file has it."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._left = self._limit = limit

    def spent(self, content: bytes) -> bytes:
        """The same bytes, once they are paid for."""
        self._left -= len(content)
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"it copies the same bytes until they are more than the {self._limit:,} of the file: it is made to "
                "exhaust the memory"
            )
        return content


class RefusedGlobalError(pickle.UnpicklingError):
    """The pickle names something outside the list below."""


class _Inert:
    """A stand-in for a global of the pickle. It cannot be altered: the BUILD opcode sets attributes at will."""

    __slots__ = ("_budget",)

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget

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

    def __call__(self, *arguments: Any) -> ArrayStandIn:
        return ArrayStandIn()


class _FromBuffer(_Inert):
    """`numpy.core.numeric._frombuffer(buffer, dtype, shape, order)`: arrays of pickle protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayStandIn:
        buffer, dtype, shape, order = arguments
        array = ArrayStandIn()
        content = buffer if isinstance(buffer, bytes) else self._budget.spent(bytes(buffer))
        array.__setstate__((1, shape, dtype, _text(order) == "F", content))
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
        return self._budget.spent(text.encode("latin1"))


class _Bytes(_Inert):
    """`bytes()` and `bytearray(b"...")`: the empty bytes of protocol 2, and byte arrays before protocol 5."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        return self._budget.spent(b"".join(_raw(argument) for argument in arguments[:1]))


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


class ArrayStandIn:
    """An array of the pickle before it is checked."""

    __slots__ = ("content", "dtype", "is_fortran", "shape")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def resolve(self) -> np.ndarray | list[Any]:
        """The array itself; for an object array, the list of what it holds.

        Raises:
            ValueError, TypeError, pickle.UnpicklingError, ...: it is damaged.
        """
        shape, dtype, content = tuple(self.shape), self.dtype, self.content
        if dtype.name in ("O", "O8", "object"):
            if not isinstance(content, list) or len(content) != np.prod(shape):
                raise ValueError("an object array without its objects")
            return content
        array = dtype.from_bytes(_raw(content))
        return array.reshape(shape, order="F" if self.is_fortran else "C")


_GLOBALS: dict[tuple[str, str], type[_Inert]] = {
    ("_codecs", "encode"): _Encode,
    # Python 2, and Python 3 under protocols 0 to 2, say __builtin__.
    **{(module, name): _Bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    ("numpy", "ndarray"): _ArrayClass,
    ("numpy", "dtype"): _Dtype,
    # numpy 1 and Python 2 say numpy.core, numpy 2 says numpy._core
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _PairUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
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
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _raw(value: Any) -> bytes:
    if isinstance(value, str):  # protocol 0 to 2 of Python 2 unicode
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise pickle.UnpicklingError(f"expected bytes, found {type(value).__name__}")
    return value if isinstance(value, bytes) else bytes(value)
