"""The bounded unpickler reads what Python's own writes of plain values, and no keys whose hashes a stranger chooses."""

from __future__ import annotations

import io
import math
import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.utils.bounded_pickle import BoundedUnpickler, RefusedError, bounded_dispatch


class Plain(BoundedUnpickler):
    dispatch = bounded_dispatch({}, b"")


def load(content: bytes) -> Any:
    return Plain(io.BytesIO(content), len(content), encoding="utf-8").load()


NUMBERS = st.integers(-(2**64) + 1, 2**64 - 1)
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=30)
@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    found = load(pickle.dumps([value, value], protocol))
    assert found == [value, value] and repr(found) == repr([value, value])  # which tells 1 from True, 0.0 from -0.0


def test_what_is_held_twice_stays_one_object() -> None:
    shared = ["a"]
    content = [shared, shared, bytearray(b"xy")]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        first, second, last = load(pickle.dumps(content, protocol))
        assert first is second and last == b"xy" and type(last) is bytearray
    assert math.isnan(load(pickle.dumps(math.nan)))


@pytest.mark.parametrize("content", [{(1, 2): 3}, {2**80: 1}, {frozenset(): 1}, [{1, 2}], 2**2000])
def test_what_could_take_for_ever_is_refused(content: Any) -> None:
    for protocol in (4, 5):  # earlier ones name what makes a set, which a subclass may refuse
        with pytest.raises((RefusedError, pickle.UnpicklingError)):
            load(pickle.dumps(content, protocol))


def test_places_that_nothing_was_put_in_are_no_values() -> None:
    for program in (b"h\x05.", b"Nq\x050h\x04.", b"Np5\n0g-1\n."):
        with pytest.raises(pickle.UnpicklingError, match="Memo value not found"):
            load(program)


def test_a_memo_takes_little_for_an_opcode_of_a_byte() -> None:
    content = b"\x80\x04N" + b"\x94" * 50_000 + b"."
    tracemalloc.start()
    try:
        assert load(content) is None
        assert tracemalloc.get_traced_memory()[1] < 12 * len(content)
    finally:
        tracemalloc.stop()
