"""Goes through the pickle of a torch file with inert stand-ins, so that torch only unpickles what is known to be sane.

`torch.load` runs no code, but what it builds may be far larger than the file: a tensor of a million rows over four
numbers (stride 0), lists that each hold the one before twice, a byte array of any length. Here tensors are counted
instead of made, and everything that would not stay near the size of the file is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any, NoReturn

from facekd.utils.bounded_pickle import FREE_OBJECTS, BoundedUnpickler, RefusedError, bounded_dispatch, check_key
from facekd.utils.foreign import MAX_DIMENSIONS
from facekd.utils.wording import counted

LARGEST_PICKLE = 32 << 20  # bytes; the pickle of a network has 0.1 MB, and long lists are kept outside
DEEPEST = 100  # containers within containers
# Tensors may share their numbers, such as tied weights do; all together they hold at most so many times the file.
LARGEST_TENSORS, FREE_TENSOR_BYTES = 4, 1 << 20
# Opcodes of text, and of what torch never has; a tensor needs about nine building ones in 50 bytes.
UNUSED_OPCODES = pickle.LONG + pickle.INT + pickle.DICT + pickle.BYTEARRAY8

ITEM_BYTES = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("ShortStorage", "HalfStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "FloatStorage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
# What torch rebuilds tensors of other kinds with, for messages.
OTHER_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values (on the device meta)",
}
CONTAINERS = (dict, list, tuple, set)
LEAVES = frozenset({str, int, float, bool, bytes, complex, type(None)})
TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
DTYPE = re.compile(r"torch\.(bool|b?float\d+\w*|complex\d+|u?int\d+)")


class CodeError(RefusedError):
    """Raised if the pickle names something that is no tensor and no plain type; the message is that name."""


class _Fixed:
    """Is the base of stand-ins: nothing in a pickle may alter them, which the BUILD opcode would."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedError(f"it alters a {type(self).__name__.strip('_').lower()}")


class _Storage(_Fixed):
    """Stands in for the numbers that one or several tensors show."""

    __slots__ = ("item_bytes", "num_items")

    def __init__(self, num_items: int, item_bytes: int) -> None:
        self.num_items, self.item_bytes = num_items, item_bytes


class _Tensor(_Fixed):
    """Stands in for a tensor of `num_bytes`."""

    __slots__ = ("num_bytes",)

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


class _Mapping(dict):
    """Stands in for an OrderedDict, whose attributes nobody needs."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Global(_Fixed):
    """Stands in for what the pickle names."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name, self._call = name, call

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            raise CodeError(self.name)
        return self._call(*arguments)


class PickleScan(BoundedUnpickler):
    """Goes through one pickle; `storages` has the bytes of the tensors' storages by key, as the pickle states them.

    Args:
        stream: binary; stands at the beginning of the pickle, and afterwards behind its end.
        pickle_bytes: size of the pickle, or more.
        file_bytes: size of the whole file.
    """

    dispatch = bounded_dispatch({}, UNUSED_OPCODES)

    def __init__(self, stream: Any, pickle_bytes: int, file_bytes: int) -> None:
        super().__init__(stream, pickle_bytes, encoding="utf-8", errors="replace")
        self.storages: dict[str, int] = {}
        self._file_bytes = file_bytes
        self._copies_left = self._values_left = FREE_OBJECTS + pickle_bytes
        self._tensor_bytes_left = self._tensor_bytes = LARGEST_TENSORS * file_bytes + FREE_TENSOR_BYTES
        calls: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": lambda *arguments: _Mapping(*map(self._copied, arguments)),
            "collections.Counter": lambda *arguments: _Mapping(*map(self._copied, arguments)),
            "builtins.set": lambda *arguments: set(*map(self._copied, arguments)),
            "builtins.complex": complex,
            "torch.Size": lambda sizes: tuple(self._copied(sizes)),
            "torch.device": lambda *_: None,
            "_codecs.encode": self._encoded,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _same_tensor,
            "torch._utils._rebuild_parameter_with_state": _same_tensor,
            "torch._tensor._rebuild_from_type_v2": self._tensor_of_type,
        }
        self._globals = {name: _Global(name, call) for name, call in calls.items()}

    def load(self) -> Any:
        """Returns what the pickle holds, with stand-ins in the place of tensors.

        Raises:
            RefusedError: torch would build something from it that is not near the size of the file, or no plain type.
            Exception: the pickle is damaged; anything can be raised (EOFError, IndexError, TypeError, ...).
        """
        content = super().load()
        self._tensor_bytes_left = self._tensor_bytes
        self._check(content, 0)
        return content

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in self._globals:
            return self._globals[full]
        if full in OTHER_TENSORS:
            raise RefusedError(f"it holds a tensor that is {OTHER_TENSORS[full]}; expected dense ones")
        is_storage = module in ("torch", "torch.storage") and name in ITEM_BYTES
        if not (is_storage or full in TENSOR_CLASSES or DTYPE.fullmatch(full)):
            raise CodeError(full)
        return self._globals.setdefault(full, _Global(full))

    def persistent_load(self, pid: Any) -> _Storage:
        """Notes the storage that torch would load here."""
        what, kind, key, _location, num_items, *views = pid
        if what != "storage" or not isinstance(kind, _Global) or not isinstance(key, str) or any(views):
            raise RefusedError("it refers to something that is no storage of a tensor")
        item_bytes = ITEM_BYTES.get(kind.name.rpartition(".")[2])
        if item_bytes is None or type(num_items) is not int or num_items < 0:
            raise RefusedError("a storage has no size")
        num_bytes = num_items * item_bytes
        if num_bytes > self._file_bytes:
            raise RefusedError(f"its tensors claim {counted(num_bytes, 'byte')}, and the file has {self._file_bytes:,}")
        if self.storages.setdefault(key, num_bytes) != num_bytes:
            raise RefusedError("two tensors give the same storage different sizes")
        return _Storage(num_items, item_bytes)

    def _tensor(self, storage: Any, offset: Any, sizes: Any, strides: Any, *_: Any) -> _Tensor:
        """Checks that a tensor lies within its storage, and counts its bytes."""
        places = (offset, *sizes, *strides)
        if not isinstance(storage, _Storage) or len(sizes) != len(strides) or len(sizes) > MAX_DIMENSIONS:
            raise RefusedError("a tensor has no storage, or no shape")
        if not all(type(number) is int and 0 <= number < 2**62 for number in places):
            raise RefusedError("a tensor has a size, a stride or an offset that is no whole number from 0 on")
        count, last = 1, offset
        for size, stride in zip(sizes, strides, strict=True):
            count, last = min(count * size, 2**62), last + (size - 1) * stride
        if count and last >= storage.num_items:
            raise RefusedError(f"a tensor of shape {tuple(sizes)} reaches beyond the end of its storage")
        self._spend_tensor(count * storage.item_bytes, f"a tensor of shape {tuple(sizes)}")
        return _Tensor(count * storage.item_bytes)

    def _tensor_of_type(self, rebuild: Any, kind: Any, arguments: Any, _state: Any) -> _Tensor:
        if not isinstance(kind, _Global) or kind.name not in TENSOR_CLASSES:
            raise RefusedError("it holds a tensor of a class of its own")
        return _same_tensor(rebuild(*arguments))

    def _spend_tensor(self, num_bytes: int, what: str) -> None:
        self._tensor_bytes_left -= num_bytes
        if self._tensor_bytes_left < 0:
            raise RefusedError(
                f"its tensors would take more than {counted(self._tensor_bytes, 'byte')}, far more than the file "
                f"holds, from {what} on: it repeats the same numbers"
            )

    def _copied(self, items: Any) -> Any:
        """Counts items that are copied into another container."""
        self._copies_left -= len(items)
        if self._copies_left < 0:
            raise RefusedError("it copies the same items again and again")
        for key in items:
            check_key(key[0] if isinstance(key, list | tuple) and key else key)
        return items

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """Returns bytes as Python 3 writes them in protocol 2."""
        if not isinstance(text, str) or encoding != "latin1":
            raise RefusedError("it encodes something that is no bytes")
        self._copies_left -= len(text)
        if self._copies_left < 0:
            raise RefusedError("it copies the same bytes again and again")
        return text.encode("latin1")

    def _check(self, value: Any, depth: int) -> None:
        """Counts all values as often as they are met: who walks through the content later meets them as often."""
        if isinstance(value, _Tensor):
            self._spend_tensor(value.num_bytes, "one that stands in several places")
        if not isinstance(value, CONTAINERS):
            return
        if depth > DEEPEST:
            raise RefusedError(f"it nests more than {DEEPEST} deep")
        self._values_left -= len(value) + 1
        if self._values_left < 0:
            raise RefusedError("it holds the same containers again and again")
        items = value.values() if isinstance(value, dict) else value
        if not LEAVES.issuperset(map(type, items)):  # which is quick, for lists of a million names
            for item in items:
                self._check(item, depth + 1)


def _same_tensor(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise RefusedError("it makes a parameter of something that is no tensor")
    return tensor
