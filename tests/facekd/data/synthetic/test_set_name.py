"""Names of generated sets mean the same people wherever they are given."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.ijb_sets.sources import open_face_source
from data_prep.protocol_sets.faces import AlignedFaces
from facekd.data.synthetic.set_name import GeneratedSet, read_set_name
from facekd.errors import DataError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic:200x20", GeneratedSet(200, 20, None)),
        ("synthetic: 3 X 4 : 9", GeneratedSet(3, 4, 9)),
        ("synthetic:3×4:0", GeneratedSet(3, 4, 0)),
        ("faces", None),
        ("./synthetic:3x4", None),
    ],
)
def test_a_name_is_read(name: str, expected: GeneratedSet | None) -> None:
    assert read_set_name(name) == expected


@pytest.mark.parametrize(
    "name", ["synthetic:", "synthetic:3", "synthetic:3x4:", "synthetic:3x4:-1", "synthetic:3x4:1:2"]
)
def test_what_is_no_such_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="write synthetic:200x20 or synthetic:200x20:SEED"):
        read_set_name(name)


@pytest.mark.parametrize("name", ["synthetic:999999999x9999", "synthetic:999999999x0", "synthetic:1x100000001:3"])
def test_a_name_that_asks_for_more_than_the_memory_holds_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"asks for [\d,]+ x [\d,]+ images; at most 100,000,000 in all"):
        read_set_name(name)
    assert read_set_name("synthetic:100000000x1") is not None


def test_a_seed_in_the_name_goes_before_that_of_the_command() -> None:
    named, given, other = (AlignedFaces(name, 32, seed).read(3) for name, seed in
                           (("synthetic:3x2:9", 0), ("synthetic:3x2", 9), ("synthetic:3x2", 0)))  # fmt: skip
    assert named == given != other
    crops = [
        open_face_source(name, None, "fail", 32, seed) for name, seed in (("synthetic:3x2:9", 0), ("synthetic:3x2", 9))
    ]
    assert crops[0].read(3).jpeg == crops[1].read(3).jpeg
    assert np.array_equal(crops[0].labels, crops[1].labels)
