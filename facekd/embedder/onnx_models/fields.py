"""Counts the fields of an ONNX file before it is parsed, because an empty message of two bytes takes 150 in memory."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError, Message

DEEPEST = 100  # messages within each other; protocol buffers read no more
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


def has_more_fields(content: bytes, kind: type[Message], most: int) -> bool:
    """Tells whether a protocol buffer has more than `most` fields, those of the messages inside counted.

    Args:
        content: the bytes of the message; not copied.
        kind: what message it is.
        most: at which number to stop.

    Raises:
        DecodeError: it is no whole message, or has groups, which no ONNX file has.
    """
    kinds: dict[str, dict[int, Any]] = {}
    open_messages: list[tuple[int, Any]] = [(len(content), kind.DESCRIPTOR)]
    place = count = 0
    while open_messages:
        # Read the next field of the innermost message.
        end, message = open_messages[-1]
        if place == end:
            open_messages.pop()
            continue
        count += 1
        if count > most:
            return True
        tag, place = _number(content, place)
        wire, length = tag & 7, 0
        if wire in (VARINT, BYTES):
            length, place = _number(content, place)
        elif wire not in (EIGHT_BYTES, FOUR_BYTES) or tag < 8:
            raise DecodeError("a field of an unknown kind")
        length = {VARINT: 0, BYTES: length, EIGHT_BYTES: 8, FOUR_BYTES: 4}[wire]
        if place + length > end:
            raise DecodeError("a field beyond the end of its message")

        # Go into a message, and over all else.
        inner = None
        if wire == BYTES:
            if message.full_name not in kinds:
                fields = message.fields_by_number.items()
                kinds[message.full_name] = {number: field.message_type for number, field in fields}
            inner = kinds[message.full_name].get(tag >> 3)  # None for those that hold no message, too
        if inner is None:
            place += length
        elif len(open_messages) > DEEPEST:
            raise DecodeError("messages too deep within each other")
        else:
            open_messages.append((place + length, inner))
    return False


def _number(content: bytes, place: int) -> tuple[int, int]:
    """Reads a number of 7 bits a byte; returns it and the place behind it."""
    value = shift = 0
    for byte in content[place : place + 10]:
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise DecodeError("a number without an end")
