"""What can be told of a face image without a model: brightness, blur, JPEG quality, a hash for duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from data_prep.jobs.ordered_work import in_order
from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import FacekdError
from facekd.images.decoding import decode_rgb
from facekd.utils.progress import track

HASH_SIDE = 8
HASHED_SIDE = 32
COMPARED_SIDE = 64
# On aligned LFW photographs, hashes within 4 bits: 0.91 to 0.98 where it is one photograph, else 0.66 to 0.88.
LEAST_CORRELATION = 0.9
# ITU T.81, table K.1, whose scaled values libjpeg writes; only the sum is needed.
STANDARD_LUMINANCE_SUM = 3688


@dataclass(frozen=True)
class Quality:
    """Of N images; NaN, 0 or False where an image cannot be decoded.

    Attributes:
        images: int64 (N,), which images of the pack.
        brightness: float64 (N,), mean luma, 0..255.
        sharpness: float64 (N,), variance of the Laplacian of luma at 112 pixels: low is blurred.
        jpeg_quality: float64 (N,), the 1..100 of libjpeg's scale nearest to the quantisation table; NaN for no JPEG.
        hashes: uint64 (N,), perceptual hash; see `perceptual_hash`.
        is_usable: bool (N,).
    """

    images: np.ndarray
    brightness: np.ndarray
    sharpness: np.ndarray
    jpeg_quality: np.ndarray
    hashes: np.ndarray
    is_usable: np.ndarray


def measure_quality(pack: RecordPack, images: np.ndarray, workers: int) -> Quality:
    """Decode and measure these images (by number), in threads."""

    def measure(image: int) -> tuple[float, float, float, int] | None:
        try:
            content, _ = pack.read_image(image)
            luma = cv2.cvtColor(decode_rgb(content), cv2.COLOR_RGB2GRAY)
        except FacekdError:
            return None
        seen = luma if luma.shape == (112, 112) else cv2.resize(luma, (112, 112), interpolation=cv2.INTER_AREA)
        sharpness = float(cv2.Laplacian(seen, cv2.CV_64F).var())
        return float(luma.mean()), sharpness, jpeg_quality(content), perceptual_hash(luma)

    count = len(images)
    columns = np.full((3, count), np.nan)
    hashes, is_usable = np.zeros(count, dtype=np.uint64), np.zeros(count, dtype=bool)
    with in_order(measure, images.tolist(), workers) as results:
        for row, result in enumerate(track(results, "measuring images", count)):
            found = result.result()
            if found is not None:
                columns[:, row], hashes[row], is_usable[row] = found[:3], found[3], True
    return Quality(images, columns[0], columns[1], columns[2], hashes, is_usable)


def jpeg_quality(content: bytes) -> float:
    """The quality, 1..100, at which libjpeg would have written these bytes, by the sum of their first quantisation
    table.

    NaN for what is no baseline JPEG with 8-bit tables. Right within 1 for libjpeg's own files of 25 or more (below, the
    table saturates and it comes out too high), a fair guess for those of cameras.
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
    """64 bits that survive scaling and re-encoding: signs of the low frequencies of the image against their median.

    Args:
        luma: uint8 (H, W).
    """
    small = cv2.resize(luma, (HASHED_SIDE, HASHED_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:HASH_SIDE, :HASH_SIDE].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    return int(np.packbits(bits).view(">u8")[0])


def near_duplicates(hashes: np.ndarray, most_bits: int = 4) -> np.ndarray:
    """Pairs whose hashes differ in few bits: int64 (P, 2), first < second, in order.

    By the pigeonhole principle: of `most_bits + 1` stretches of the hash at least one is equal in such a pair, so only
    images that share one are compared.

    Args:
        hashes: uint64 (N,).
        most_bits: how many may differ, up to 7.
    """
    bands = most_bits + 1
    edges = [64 * band // bands for band in range(bands + 1)]
    found: set[tuple[int, int]] = set()
    for start, stop in pairwise(edges):
        keys = (hashes >> np.uint64(start)) & np.uint64((1 << (stop - start)) - 1)
        order = np.argsort(keys, kind="stable")
        # Neighbours at distance 1, 2, ... within runs of one key.
        for distance in range(1, len(order)):
            left, right = order[:-distance], order[distance:]
            together = keys[left] == keys[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= most_bits
            pairs = np.sort(np.stack([left[close], right[close]], axis=1), axis=1)
            found.update(map(tuple, pairs.tolist()))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def confirmed(pack: RecordPack, pairs: np.ndarray) -> np.ndarray:
    """Those of the pairs whose pixels agree too: aligned faces are alike, and hashes of two people now and then equal.

    Args:
        pairs: int64 (P, 2), image numbers; all decode.
    """

    def seen(image: int) -> np.ndarray:
        luma = cv2.cvtColor(decode_rgb(pack.read_image(image)[0]), cv2.COLOR_RGB2GRAY)
        return cv2.resize(luma, (COMPARED_SIDE, COMPARED_SIDE), interpolation=cv2.INTER_AREA).ravel().astype(np.float64)

    def is_same(first: int, second: int) -> bool:
        one, other = (pixels - pixels.mean() for pixels in (seen(first), seen(second)))
        # Both without any structure: plain images, of which the hash is all there is to say.
        norm = np.linalg.norm(one) * np.linalg.norm(other)
        return bool(norm == 0 or one @ other / norm >= LEAST_CORRELATION)

    rows = [is_same(*pair) for pair in track(pairs.tolist(), "comparing near duplicates")]
    return pairs[np.array(rows, dtype=bool)]
