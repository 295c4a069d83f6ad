"""Measures of an image without a model: against what was done to it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.inspection.image_quality import confirmed, jpeg_quality, near_duplicates, perceptual_hash
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter


def picture(seed: int, size: int = 112) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("quality", [25, 50, 60, 75, 85, 90, 95, 99])
def test_jpeg_quality_is_what_the_file_was_written_with(quality: int) -> None:
    content = cv2.imencode(".jpg", picture(0), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert jpeg_quality(content) == pytest.approx(quality, abs=1)


def test_what_is_no_jpeg_has_no_jpeg_quality() -> None:
    png = cv2.imencode(".png", picture(0))[1].tobytes()
    for content in (png, b"", b"\xff\xd8", b"\xff\xd8\xff\xdb\x00\x00\xff\xdb\x00\x00"):
        assert np.isnan(jpeg_quality(content))


def test_hashes_survive_encoding_and_scaling_and_tell_images_apart() -> None:
    for seed in range(20):
        luma = cv2.cvtColor(picture(seed), cv2.COLOR_BGR2GRAY)
        original = perceptual_hash(luma)
        coded = cv2.imdecode(cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_GRAYSCALE)
        larger = cv2.resize(luma, (160, 160))
        other = perceptual_hash(cv2.cvtColor(picture(seed + 100), cv2.COLOR_BGR2GRAY))
        assert (original ^ perceptual_hash(coded)).bit_count() <= 4
        assert (original ^ perceptual_hash(larger)).bit_count() <= 4
        assert (original ^ other).bit_count() > 8


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 7))
def test_near_duplicates_are_those_of_the_naive_comparison(seed: int, count: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    bases = generator.integers(0, 2**63, 6, dtype=np.uint64)
    hashes = bases[generator.integers(0, 6, count)]
    for _ in range(4):
        flips = np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)
        hashes = np.where(generator.random(count) < 0.6, hashes ^ flips, hashes)
    expected = [
        [i, j] for i in range(count) for j in range(i + 1, count) if int(hashes[i] ^ hashes[j]).bit_count() <= most
    ]
    assert near_duplicates(hashes, most).tolist() == expected


def test_only_pairs_whose_pixels_agree_are_confirmed(tmp_path: Path) -> None:
    pixels = [picture(0), picture(0), picture(1), cv2.resize(picture(1), (90, 90)), 255 - picture(0)]
    with RecordPackWriter(tmp_path, 112) as writer:
        for number, image in enumerate(pixels):
            quality = [cv2.IMWRITE_JPEG_QUALITY, 50 if number == 1 else 95]
            writer.add(0, cv2.imencode(".jpg", image, quality)[1].tobytes())
    pairs = np.array([[0, 1], [0, 2], [0, 4], [1, 3], [2, 3]])
    assert confirmed(open_record_pack(tmp_path), pairs).tolist() == [[0, 1], [2, 3]]
    assert confirmed(open_record_pack(tmp_path), pairs[:0]).shape == (0, 2)
