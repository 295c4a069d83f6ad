"""Measures face images without a model: brightness, blur, JPEG quality, and a hash that finds duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import FacekdError
from facekd.images.decoding import decode_rgb
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.progress import track
from facekd.utils.wording import counted

HASH_SIDE = 8
HASHED_SIDE = 32
COMPARED_SIDE = 64
# On aligned LFW images whose hashes differ in up to 4 bits, two versions of one photograph correlate by 0.91 to 0.98,
# and different photographs by 0.66 to 0.88.
MIN_CORRELATION = 0.9
# ITU T.81, table K.1, whose scaled values libjpeg writes; only the sum is needed.
STANDARD_LUMINANCE_SUM = 3688


@dataclass(frozen=True)
class Quality:
    """Holds the quality of N images; NaN, 0 or False for an image that cannot be decoded.

    Attributes:
        images: int64 (N,), their numbers in the pack.
        brightness: float64 (N,), mean luma, 0..255.
        sharpness: float64 (N,), variance of the Laplacian of luma at 112 pixels: low is blurred.
        jpeg_quality: float64 (N,), the quality 1..100 of libjpeg nearest to the quantisation table; NaN for no JPEG.
        hashes: uint64 (N,), perceptual hash; see `perceptual_hash`.
        is_usable: bool (N,), whether the image can be decoded.
    """

    images: np.ndarray
    brightness: np.ndarray
    sharpness: np.ndarray
    jpeg_quality: np.ndarray
    hashes: np.ndarray
    is_usable: np.ndarray


def measure_quality(pack: RecordPack, images: np.ndarray, workers: int) -> Quality:
    """Decodes and measures images of a pack in threads.

    Args:
        pack: the data set.
        images: int64 (N,), numbers of images.
        workers: how many threads.
    """

    def measure(image: int) -> tuple[float, float, float, int] | None:
        try:
            content, _ = pack.read_image(image)
            luma = cv2.cvtColor(decode_rgb(content), cv2.COLOR_RGB2GRAY)
        except FacekdError:
            return None
        # Sharpness depends on the resolution, so all images are compared at one size.
        seen = luma if luma.shape == (112, 112) else cv2.resize(luma, (112, 112), interpolation=cv2.INTER_AREA)
        sharpness = float(cv2.Laplacian(seen, cv2.CV_64F).var())
        return float(luma.mean()), sharpness, jpeg_quality(content), perceptual_hash(luma)

    # NaN marks images that cannot be decoded.
    count = len(images)
    columns = np.full((3, count), np.nan)
    hashes, is_usable = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=bool)
    with in_order(measure, images.tolist(), workers) as results:
        for row, result in enumerate(track(results, "measuring images", count)):
            found = result.result()
            if found is not None:
                columns[:, row], hashes[row], is_usable[row] = found[:3], found[3], True
    return Quality(images, columns[0], columns[1], columns[2], hashes, is_usable)


def among_text(num_measured: int, num_images: int) -> str:
    """Returns words that say among how many images duplicates were looked for; empty if among all."""
    if num_measured == num_images:
        return ""
    return f" among {num_measured:,} of {counted(num_images, 'image')} (--check looks among all)"


def jpeg_quality(content: bytes) -> float:
    """Estimates the quality, 1..100, at which libjpeg would have written these bytes.

    The estimate compares the sum of the first quantisation table with that of the standard table. It is right within 1
    for files that libjpeg wrote at 25 or more; below, the table saturates and the estimate is too high. For files of
    cameras it is a fair guess. Returns NaN for anything but a baseline JPEG with 8-bit tables.
    """
    position = 2
    if not content.startswith(b"\xff\xd8"):
        return float("nan")
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        if content[position + 1] == 0xDB and position + 69 <= len(content) and content[position + 4] >> 4 == 0:
            scale = 100 * sum(content[position + 5 : position + 69]) / STANDARD_LUMINANCE_SUM
            return float(np.clip(5000 / scale if scale > 100 else (200 - scale) / 2, 1, 100))
        position += 2 + max(length, 2)
    return float("nan")


def perceptual_hash(luma: np.ndarray) -> int:
    """Computes 64 bits that survive scaling and re-encoding: which low frequencies of the image exceed their median.

    Args:
        luma: uint8 (H, W).
    """
    small = cv2.resize(luma, (HASHED_SIDE, HASHED_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:HASH_SIDE, :HASH_SIDE].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    return int(np.packbits(bits).view(">u8")[0])


def near_duplicates(hashes: np.ndarray, max_bits: int = 4) -> np.ndarray:
    """Finds pairs whose hashes differ in few bits: int64 (P, 2), first < second, in order.

    The hash is cut into `max_bits + 1` bands. By the pigeonhole principle at least one band is equal in such a pair, so
    only images that share a band are compared.

    Args:
        hashes: uint64 (N,).
        max_bits: how many bits may differ, up to 7.
    """
    bands = max_bits + 1
    edges = [64 * band // bands for band in range(bands + 1)]
    found: set[tuple[int, int]] = set()
    for start, stop in pairwise(edges):
        keys = (hashes >> np.uint64(start)) & np.uint64((1 << (stop - start)) - 1)
        order = np.argsort(keys, kind="stable")
        # Images with one key lie next to each other: compare those at distance 1, 2, ... until no run is that long.
        for distance in range(1, len(order)):
            left, right = order[:-distance], order[distance:]
            together = keys[left] == keys[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= max_bits
            pairs = np.sort(np.stack([left[close], right[close]], axis=1), axis=1)
            found.update(map(tuple, pairs.tolist()))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def confirmed(pack: RecordPack, pairs: np.ndarray) -> np.ndarray:
    """Keeps the pairs whose pixels agree too: aligned faces look alike, and the hashes of two people may be equal.

    Args:
        pairs: int64 (P, 2), numbers of images that can be decoded.
    """

    def seen(image: int) -> np.ndarray:
        luma = cv2.cvtColor(decode_rgb(pack.read_image(image)[0]), cv2.COLOR_RGB2GRAY)
        return cv2.resize(luma, (COMPARED_SIDE, COMPARED_SIDE), interpolation=cv2.INTER_AREA).ravel().astype(np.float64)

    def is_same(first: int, second: int) -> bool:
        one, other = (pixels - pixels.mean() for pixels in (seen(first), seen(second)))
        # For plain images without any structure, nothing but the hash can be compared.
        norm = np.linalg.norm(one) * np.linalg.norm(other)
        return bool(norm == 0 or one @ other / norm >= MIN_CORRELATION)

    rows = [is_same(*pair) for pair in track(pairs.tolist(), "comparing near duplicates")]
    return pairs[np.array(rows, dtype=bool)]
