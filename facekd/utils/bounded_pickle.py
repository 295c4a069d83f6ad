"""Unpickles what strangers made in time and memory bounded by its size; subclasses say what the names in it stand for.

Python's own unpickler, in the form that is written in Python: there each opcode can be replaced. Those that claim
memory, make objects out of a byte, or hash keys of a stranger's choice are bounded or refused here.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from facekd.utils.wording import counted

LONGEST_NUMBER, LONGEST_LINE = 9, 23  # 64 bits and a sign: bytes, and characters of a number written as a line
FREE_OBJECTS, BYTES_AN_OBJECT = 10_000, 4
# Opcodes of one or two bytes that make an object of 50 bytes or more.
BUILDING_OPCODES = b"".join(
    getattr(pickle, name)
    for name in (
        *("MARK", "EMPTY_LIST", "LIST", "EMPTY_DICT", "DICT", "EMPTY_SET", "FROZENSET", "TUPLE", "TUPLE1", "TUPLE2"),
        *("TUPLE3", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "INST", "OBJ"),
    )
)
Load = Callable[[Any], None]


class RefusedError(pickle.UnpicklingError):
    """Says in a clause why a pickle is refused: "it nests more than 100 deep"."""


class _Memo:
    """Holds the places of a memo in a list: a dictionary would take 100 bytes for each, and an opcode has one."""

    def __init__(self, limit: int) -> None:
        self._items: list[Any] = []
        self._limit, self._count = limit, 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Any:
        if not 0 <= place < len(self._items) or self._items[place] is _Memo:  # which stands for an empty place
            raise KeyError(place)
        return self._items[place]

    def __setitem__(self, place: int, value: Any) -> None:
        if not 0 <= place <= self._limit:
            raise RefusedError(f"it names place {place:,} of the memo, and has {counted(self._limit, 'byte')}")
        if place >= len(self._items):
            self._items.extend([_Memo] * (place + 1 - len(self._items)))
        self._count += self._items[place] is _Memo
        self._items[place] = value


class BoundedUnpickler(pickle._Unpickler):
    """Reads one pickle.

    Args:
        stream: binary; stands at the beginning of the pickle.
        num_bytes: size of the pickle, or more.
        encoding, errors: as for `pickle.load`.
    """

    def __init__(self, stream: Any, num_bytes: int, encoding: str, errors: str = "strict") -> None:
        super().__init__(stream, encoding=encoding, errors=errors)
        self.memo = _Memo(num_bytes)
        self.num_bytes = num_bytes
        self._objects_left = self._objects = FREE_OBJECTS + num_bytes // BYTES_AN_OBJECT

    def spend_objects(self, count: int) -> None:
        """Subtracts objects from those that a pickle of this size may make."""
        self._objects_left -= count
        if self._objects_left < 0:
            raise RefusedError(
                f"it builds more than {self._objects:,} objects with {counted(self.num_bytes, 'byte')}, far more than "
                "its content needs: it seems made to exhaust the memory"
            )


class _Dispatch(dict[int, Load]):
    def __missing__(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"the byte 0x{code:02x} stands where an opcode is expected")


def bounded_dispatch(costs: Mapping[int, int], refused: bytes) -> dict[int, Load]:
    """Returns the table of opcodes of a subclass.

    Args:
        costs: how many objects some opcodes count as; those of `BUILDING_OPCODES` count as one.
        refused: opcodes that files of this kind never have.
    """
    table = _Dispatch(_TABLE)
    for code in {*BUILDING_OPCODES, *costs}:
        table[code] = _counted(table[code], costs.get(code, 1))
    table.update((code, _refuse(code)) for code in refused)
    return table


def check_key(key: Any) -> None:
    """Refuses keys whose hashes a stranger can choose, or that take for ever to hash, such as tuples.

    Finding keys with equal hashes apart takes the square of their number. Numbers of 64 bits and a few more have few of
    the same hash, and texts are hashed with a secret.
    """
    if not isinstance(key, str | int | float | bool | bytes | None):
        raise RefusedError(f"it has a {type(key).__name__} as a key")


def _counted(load: Load, cost: int) -> Load:
    def load_and_count(unpickler: Any) -> None:
        unpickler.spend_objects(cost)
        load(unpickler)

    return load_and_count


def _refuse(code: int) -> Load:
    name = next(opcode.name for opcode in pickletools.opcodes if opcode.code == chr(code))

    def refuse(_: Any) -> NoReturn:
        raise RefusedError(f"it has the opcode {name}, which files of its kind never have")

    return refuse


def _load_item(unpickler: Any) -> None:
    check_key(unpickler.stack[-2])
    _PLAIN[pickle.SETITEM[0]](unpickler)


def _checking_keys(load: Load) -> Load:
    def check_and_load(unpickler: Any) -> None:
        for key in unpickler.stack[::2]:  # since the last mark
            check_key(key)
        load(unpickler)

    return check_and_load


def _load_number(unpickler: Any) -> None:
    length = unpickler.read(1)[0]
    if length > LONGEST_NUMBER:
        raise RefusedError(f"it has a whole number of {counted(length, 'byte')}; expected {LONGEST_NUMBER} at most")
    unpickler.append(pickle.decode_long(unpickler.read(length)))


def _load_digits(unpickler: Any) -> None:
    """Reads a number or truth value (`01`, `00`) written as text, as Python 2 does."""
    line = unpickler.readline()
    text = line.rstrip(b"\n")
    if len(line) > LONGEST_LINE:
        raise RefusedError(f"it has a whole number of {counted(len(text), 'digit')}; expected 20 at most")
    unpickler.append(text == b"01" if text in (b"00", b"01") else int(text.removesuffix(b"L"), 0))


def _load_bytearray(unpickler: Any) -> None:
    length = int.from_bytes(unpickler.read(8), "little")
    content = unpickler.read(min(length, unpickler.num_bytes))
    if len(content) != length:
        raise RefusedError(f"it has {counted(length, 'byte')} of which {len(content):,} are there")
    unpickler.append(bytearray(content))


_PLAIN: dict[int, Load] = pickle._Unpickler.dispatch
_TABLE: dict[int, Load] = {
    **_PLAIN,
    pickle.SETITEM[0]: _load_item,
    **{code: _checking_keys(_PLAIN[code]) for code in pickle.SETITEMS + pickle.DICT},
    pickle.LONG1[0]: _load_number,
    pickle.INT[0]: _load_digits,
    pickle.LONG[0]: _load_digits,
    pickle.BYTEARRAY8[0]: _load_bytearray,
    # Allocate what they claim, and hash keys of any kind; neither torch nor packs have them.
    **{code: _refuse(code) for code in pickle.LONG4 + pickle.FROZENSET + pickle.ADDITEMS},
}
