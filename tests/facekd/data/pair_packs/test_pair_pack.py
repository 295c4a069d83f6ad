"""Verification packs: what others wrote is read, what is hostile or damaged is refused in words."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facekd.data.pair_packs.pair_pack import decode_images, write_pair_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError

IMAGES = [b"\xff\xd8one", b"\xff\xd8two", b"\xff\xd8three", b"\xff\xd8four"]
LABELS = [True, False]


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "pack.bin"
    path.write_bytes(content)
    return path


def png(color: tuple[int, int, int], size: int = 8) -> bytes:
    """A plain PNG of an RGB colour."""
    image = np.full((size, size, 3), color, np.uint8)
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def python2_string(content: bytes) -> bytes:
    return b"U" + bytes([len(content)]) + content


def python2_array(content: bytes, shape: bytes) -> bytes:
    """numpy uint8 array as Python 2's cPickle writes it under protocol 2."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_string(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + python2_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + python2_string(content) + b"tb"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("held_as", ["bytes", "bytearray", "flat", "column", "object array"])
def test_reads_every_form_python_3_writes(tmp_path: Path, protocol: int, held_as: str) -> None:
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    forms = {
        "bytes": IMAGES,
        "bytearray": [bytearray(image) for image in IMAGES],
        "flat": arrays,
        "column": [array[:, None] for array in arrays],
        "object array": np.array([*arrays, None], dtype=object)[:4],
    }
    labels = (
        LABELS,
        [1, 0],
        [np.bool_(True), np.bool_(False)],
        [np.int64(1), np.int64(0)],
        np.array(LABELS),
        (True, 0),
    )
    for is_same in labels:
        for pair in ((forms[held_as], is_same), [forms[held_as], is_same]):
            pack = read_pair_pack(written(tmp_path, pickle.dumps(pair, protocol)))
            assert pack.images == IMAGES
            assert pack.is_same.dtype == np.bool_ and pack.is_same.tolist() == LABELS
            assert len(pack) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_byte_arrays_as_large_as_images_are(tmp_path: Path, protocol: int) -> None:
    """Of random bytes, as in a JPEG, half take two bytes as text; all are made twice, by `encode` and `bytearray`."""
    images = [np.random.default_rng(seed).bytes(20_000) for seed in range(4)]
    content = pickle.dumps(([bytearray(image) for image in images], LABELS), protocol)
    assert read_pair_pack(written(tmp_path, content)).images == images


def test_reads_what_python_2_wrote(tmp_path: Path) -> None:
    strings = b"\x80\x02](" + b"".join(python2_string(image) for image in IMAGES) + b"e](\x88\x89e\x86."
    assert read_pair_pack(written(tmp_path, strings)).images == IMAGES
    for shape in (lambda n: b"K" + bytes([n]) + b"\x85", lambda n: b"K" + bytes([n]) + b"K\x01\x86"):
        arrays = b"".join(python2_array(image, shape(len(image))) for image in IMAGES)
        pack = read_pair_pack(written(tmp_path, b"\x80\x02](" + arrays + b"e](K\x01K\x00e\x86."))
        assert pack.images == IMAGES
        assert pack.is_same.tolist() == LABELS


def python2_text(content: bytes) -> bytes:
    """The opcode S with the argument that Python 2's `repr` gives: printable ASCII as it is, the rest escaped."""
    quote = b'"' if b"'" in content and b'"' not in content else b"'"
    escapes = {0x5C: rb"\\", 0x0A: rb"\n", 0x0D: rb"\r", 0x09: rb"\t", quote[0]: b"\\" + quote}
    shown = (escapes.get(b) or (bytes([b]) if 32 <= b < 127 else b"\\x%02x" % b) for b in content)
    return b"S" + quote + b"".join(shown) + quote + b"\n"


def python2_text_array(content: bytes, shape: bytes) -> bytes:
    """numpy uint8 array as Python 2's pickle writes it under protocol 0, without the memo."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    return empty + b"(I1\n" + shape + dtype + b"I00\n" + python2_text(content) + b"tb"


EVERY_BYTE = [bytes(range(256)), b"'quoted\"\n\\x00", b"\xff\xd8it's\r\t", b"\\\\'"]


@pytest.mark.parametrize("labels", [b"(lp9\nI01\naI00\na", b"(lI1\naI0\na", b"(I01\nI00\nt"])
def test_reads_what_python_2_wrote_as_text(tmp_path: Path, labels: bytes) -> None:
    """Protocol 0, the default of Python 2: strings in quotes, booleans as I01 and I00."""
    images = b"".join(python2_text(image) + b"p%d\na" % place for place, image in enumerate(EVERY_BYTE, start=1))
    pack = read_pair_pack(written(tmp_path, b"((lp0\n" + images + labels + b"tp12\n."))
    assert pack.images == EVERY_BYTE and pack.is_same.tolist() == [True, False]
    # Bytes above 127 that stand as they are, which some writers leave.
    raw = b"".join(b"S'" + image + b"'\na" for image in IMAGES)
    assert read_pair_pack(written(tmp_path, b"((l" + raw + labels + b"t.")).images == IMAGES
    # Arrays (n,) and (n, 1), as cv2.imencode and np.fromfile made them.
    for shape in (b"(I%d\nt", b"(I%d\nI1\nt"):
        arrays = b"".join(python2_text_array(image, shape % len(image)) + b"a" for image in EVERY_BYTE)
        assert read_pair_pack(written(tmp_path, b"((l" + arrays + labels + b"t.")).images == EVERY_BYTE


def test_reads_binary_strings_beside_text_booleans(tmp_path: Path) -> None:
    """Protocol 1 of Python 2: short strings by U, long ones by T, booleans still as I01."""
    longer = IMAGES[0] * 100
    strings = b"".join(python2_string(image) for image in IMAGES[1:])
    content = b"(](T" + struct.pack("<i", len(longer)) + longer + strings + b"e](I01\nI00\net."
    pack = read_pair_pack(written(tmp_path, content))
    assert pack.images == [longer, *IMAGES[1:]] and pack.is_same.tolist() == [True, False]


def test_text_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    images = b"".join(python2_text(image) + b"a" for image in IMAGES)
    content = b"((l" + images + b"(lI01\naI00\nat."
    assert read_pair_pack(written(tmp_path, content)).images == IMAGES
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"pack\.bin: not a readable verification pack"):
            read_pair_pack(written(tmp_path, content[:length]))


@pytest.mark.parametrize(
    ("file", "num_pairs", "num_genuine"), [("lfw_folds12.bin", 1200, 600), ("small_lfw.bin", 10, 10)]
)
def test_reads_real_packs(real_data, file: str, num_pairs: int, num_genuine: int) -> None:
    pack = read_pair_pack(real_data(f"lfw_pairs/{file}"))
    assert (len(pack), int(pack.is_same.sum()), len(pack.images)) == (num_pairs, num_genuine, 2 * num_pairs)
    decoded = decode_images(pack.images[:20])
    assert decoded.shape == (20, 112, 112, 3) and decoded.dtype == np.uint8
    # Faces are redder than they are blue: the colour order is RGB.
    assert decoded[..., 0].mean() > decoded[..., 2].mean()


def test_round_trip_and_the_plain_unpickler_of_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pack.bin"
    write_pair_pack(path, [*IMAGES[:3], np.frombuffer(IMAGES[3], np.uint8)], np.array(LABELS))
    assert read_pair_pack(path).images == IMAGES
    with path.open("rb") as stream:  # as InsightFace reads it
        images, is_same = pickle.load(stream, encoding="bytes")
    assert images == IMAGES
    assert is_same == LABELS and all(type(label) is bool for label in is_same)


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "pack.bin"
    write_pair_pack(path, IMAGES, LABELS)
    before = path.read_bytes()
    for images, labels in ((IMAGES[:3], LABELS), (IMAGES, [True]), ([*IMAGES[:3], b""], LABELS), (IMAGES, [True, 2])):
        with pytest.raises(DataError):
            write_pair_pack(path, images, labels)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["pack.bin"]


class RunsOnLoad:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pack_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was_here"
    path = written(tmp_path, pickle.dumps(([RunsOnLoad(marker), *IMAGES[1:]], LABELS), protocol))
    with pytest.raises(DataError, match=r"pack\.bin: refused: the pickle asks for (pathlib|__builtin__|builtins)"):
        read_pair_pack(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"((lS'\\xff\\xd8'\nacos\nsystem\n(S'\xff'\ntRa(lI01\nat.", "os.system"),
        (b"((lS'\xff'\naccopy_reg\n_reconstructor\n(cos\nsystem\ntR(lI01\nat.", "copy_reg._reconstructor"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__.x\x93.", "numpy.ndarray.__class__.x"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
        (b"\x80\x02\x82\x01.", "unregistered extension code"),
        (b"P17\n.", "outside itself"),
        # BUILD sets attributes of whatever lies on the stack: here it would replace a permitted global's call
        (b"c_codecs\nencode\n(N}S'__call__'\nNstb.", "alter a global"),
        (b"cnumpy\nndarray\n(K\x05\x85tR.", "misuses"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "latin1"),
        # room for 2^31 places in the memo, which the machine would clear at once
        (b"N" + b"r\xff\xff\xff\x7f.", "memo"),
    ],
)
def test_hostile_opcodes(tmp_path: Path, program: bytes, says: str) -> None:
    with pytest.raises(DataError, match=r"pack\.bin") as caught:
        read_pair_pack(written(tmp_path, program))
    assert says in str(caught.value)


def test_bytes_do_not_become_object_pointers(tmp_path: Path) -> None:
    # numpy itself believes the flags in a dtype's state, and would follow these eight bytes as a pointer.
    content = pickle.dumps(np.frombuffer(struct.pack("<Q", 0x4141414141414141), np.uint8), protocol=2)
    hostile = content.replace(b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00O8")
    assert hostile != content
    pack = b"\x80\x02](" + hostile[2:-1] + b"U\x01ae](\x88e\x86."
    with pytest.raises(DataError, match=r"image 0 .pair 0. is a damaged numpy array"):
        read_pair_pack(written(tmp_path, pack))


BIG = 1 << 20


def repeated(value: object, use: bytes, times: int) -> bytes:
    """A pickle that holds `value` once, in place 0 of the memo, and a pack of `times` images, each made by `use`."""
    head = pickle.dumps(value, 5)[:-1]
    labels = b"](" + b"\x88" * (times // 2) + b"e"
    return head + b"q\x000](" + use * times + b"e" + labels + b"\x86."


def array_of(content: bytes) -> bytes:
    """Opcodes that make an array of `content`, itself opcodes."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return empty + b"(K\x01J" + BIG.to_bytes(4, "little") + b"\x85" + dtype + b"\x89" + content + b"tb"


@pytest.mark.parametrize(
    "use",
    [b"h\x00", array_of(b"h\x00"), b"cbuiltins\nbytearray\nh\x00\x85R"],
    ids=["bytes", "arrays", "byte arrays"],
)
def test_a_large_image_that_is_named_many_times_is_held_once(tmp_path: Path, use: bytes) -> None:
    path = written(tmp_path, repeated(bytes(BIG), use, 2000))
    tracemalloc.start()
    try:
        pack = read_pair_pack(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * BIG
    finally:
        tracemalloc.stop()
    assert len(pack) == 1000 and pack.images[1999] == bytes(BIG)


@pytest.mark.parametrize(
    ("value", "use"),
    [
        ("x" * BIG, b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"),
        ("x" * BIG, b"cbuiltins\nbytearray\nh\x00\x85R"),
        ("x" * BIG, array_of(b"h\x00")),
        (bytearray(BIG), b"cnumpy.core.numeric\n_frombuffer\n(h\x00NNNtR"),
    ],
    ids=["encode", "bytearray", "arrays of text", "frombuffer"],
)
def test_a_file_that_multiplies_its_content_is_refused(tmp_path: Path, value: object, use: bytes) -> None:
    path = written(tmp_path, repeated(value, use, 2000))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"pack\.bin: .*to exhaust the memory"):
            read_pair_pack(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * BIG
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b"\x85"])
def test_a_file_of_nothing_but_containers_is_refused(tmp_path: Path, opcode: bytes) -> None:
    with pytest.raises(DataError, match=r"builds more than [\d,]+ objects .*to exhaust the memory"):
        read_pair_pack(written(tmp_path, b"\x80\x04N" + opcode * 50_000 + b"."))


def doubled(depth: int) -> bytes:
    """Opcodes that make a tuple that holds one tuple twice, and so on: a few bytes, 2^depth values."""
    return b")" + b"2\x86" * depth


@pytest.mark.parametrize(
    ("program", "says"),
    [
        # Numbers with one hash: a dictionary compares each with all before it.
        (
            b"}(" + b"".join(pickle.dumps(k * (2**61 - 1), 2)[2:-1] + b"N" for k in range(2000, 2100)) + b"u.",
            "it has a whole number of 10 bytes",
        ),
        (b"(L" + b"9" * 22 + b"L\nNd.", "a whole number of 23 digits"),
        (b"(I" + b"9" * 23 + b"\nNd.", "a whole number of 23 digits"),
        # Tuples, whose hash takes as long as they have values.
        (b"}" + doubled(18) + b"Ns.", "it has a tuple as a key"),
        (b"}(" + doubled(18) + b"Nu.", "it has a tuple as a key"),
        (b"(" + doubled(18) + b"Nd.", "it has a tuple as a key"),
        (b"\x8f(" + doubled(18) + b"\x90.", "it has the opcode ADDITEMS"),
        (b"(" + doubled(18) + b"\x91.", "it has the opcode FROZENSET"),
        # Writing them out takes longer still.
        (b"cnumpy\ndtype\n" + doubled(18) + b"\x85R.", "expected text, found tuple"),
        (b"c_codecs\nencode\nX\x01\0\0\0a" + doubled(18) + b"\x86R.", "expected text, found tuple"),
        (b"cnumpy.core.numeric\n_frombuffer\n(J\xff\xff\xff\x7fNNNtR.", "expected bytes, found int"),
        (b"\x96" + b"\xff" * 6 + b"\0\0.", "bytes of which 1 are there"),
        # An array of as many dimensions as bytes: multiplying their sizes takes the square of that.
        (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1("
            + b"\x8a\x08"
            + b"\xff" * 7
            + b"\x7fq\1"
            + b"h\1" * 2000
            + b"tcnumpy\ndtype\nU\2O8K\0K\1\x87R\x89]tb]\x86.",
            "its shape is no row of up to 64 whole numbers",
        ),
    ],
)
def test_keys_and_names_that_take_for_ever_are_refused(tmp_path: Path, program: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_pair_pack(written(tmp_path, b"\x80\x05" + program))


def test_keys_of_a_few_bytes_with_one_hash_are_too_few_to_matter(tmp_path: Path) -> None:
    keys = [k * (2**61 - 1) for k in range(-8, 8)]
    with pytest.raises(DataError, match="found dict of 16"):
        read_pair_pack(written(tmp_path, pickle.dumps(dict.fromkeys(keys), 2)))


@pytest.mark.parametrize("opcode", [b"\x94", b"(", b"2", b"q\0"], ids=["MEMOIZE", "MARK", "DUP", "BINPUT"])
def test_opcodes_take_memory_near_their_number(tmp_path: Path, opcode: bytes) -> None:
    path = written(tmp_path, b"\x80\x04N" + opcode * 30_000 + b".")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_pair_pack(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * path.stat().st_size + (1 << 20)
    finally:
        tracemalloc.stop()


def test_a_pack_of_many_tiny_images_is_no_attack(tmp_path: Path) -> None:
    images = [np.frombuffer(bytes([i % 251 + 1, i % 7]), np.uint8) for i in range(4000)]
    labels = np.arange(2000) % 2 == 0
    pack = read_pair_pack(written(tmp_path, pickle.dumps((images, list(labels)))))
    assert pack.images == [image.tobytes() for image in images] and (pack.is_same == labels).all()


def test_a_pack_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps((IMAGES, LABELS), protocol=4)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"pack\.bin: not a readable verification pack"):
            read_pair_pack(written(tmp_path, content[:length]))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), as_arrays=st.booleans())
def test_damage_is_either_refused_or_harmless(tmp_path: Path, data, protocol: int, as_arrays: bool) -> None:
    images = [np.frombuffer(image, np.uint8) for image in IMAGES] if as_arrays else IMAGES
    content = bytearray(pickle.dumps((images, LABELS), protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pack = read_pair_pack(written(tmp_path, bytes(content)))
    except DataError:
        return
    assert len(pack.images) == 2 * len(pack.is_same)
    assert all(type(image) is bytes and image for image in pack.images)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((IMAGES[:3], [True]), "holds 3 images, an odd number"),
        ((IMAGES, [True]), "4 images, so 2 pairs, but 1 label"),
        ((IMAGES, [True, 2]), "label of pair 1 is int 2; expected true or false"),
        ((IMAGES, [True, None]), "label of pair 1 is NoneType"),
        ((IMAGES, [True, 1 << 66]), "label of pair 1 is int;"),
        ((IMAGES, [True, 1 << 40000]), "it has the opcode LONG4"),
        ((IMAGES, [0.0, 1.0]), "label of pair 0 is float"),
        (([*IMAGES[:3], b""], LABELS), r"image 3 \(pair 1\) is empty"),
        (([*IMAGES[:2], 7, b"x"], LABELS), r"image 2 \(pair 1\) is int 7; expected the bytes"),
        (([*IMAGES[:3], np.zeros((4, 4, 3), np.uint8)], LABELS), r"image 3 \(pair 1\) is a uint8 array of shape"),
        (([*IMAGES[:3], np.zeros(4)], LABELS), r"image 3 \(pair 1\) is a damaged numpy array"),
        (([], []), "holds no images"),
        ((IMAGES, LABELS, 1), r"expected a pair \(images, is_same\), found tuple of 3"),
        ({"images": IMAGES}, "found dict of 1"),
        ((IMAGES, 5), "is_same is int 5; expected a list"),
    ],
)
def test_wrong_contents_are_named(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_pair_pack(written(tmp_path, pickle.dumps(content)))
    assert "pack.bin" in str(caught.value)


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged or of another kind"):
        read_pair_pack(written(tmp_path, b"PK\x03\x04 a zip"))
    with pytest.raises(FileNotFoundError):
        read_pair_pack(tmp_path / "absent.bin")


def test_decoding_gives_rgb_in_order() -> None:
    colors = [(200, 10, 20), (10, 200, 20), (10, 20, 200)]
    images: list[bytes | np.ndarray] = [png(color) for color in colors]
    images[1] = np.frombuffer(png(colors[1]), np.uint8)[:, None]
    decoded = decode_images(images)
    assert decoded.flags.c_contiguous and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.array(colors)[:, None, None], (3, 8, 8, 3)))


def test_decoding_names_the_pair() -> None:
    good = png((1, 2, 3))
    with pytest.raises(
        DataError, match=r"x\.bin: image 103 \(pair 51\): its 9 bytes do not decode .* start with 6e 6f 74"
    ):
        decode_images([good, good, good, b"not a jpg"], first_image=100, source="x.bin")
    with pytest.raises(DataError, match=r"image 1 \(pair 0\): "):
        decode_images([good, good[: len(good) // 4]])
    with pytest.raises(DataError, match=r"image 2 \(pair 1\) is 9x9 pixels, the first of its batch 8x8"):
        decode_images([good, good, png((1, 2, 3), 9)])
    with pytest.raises(DataError, match="no images"):
        decode_images([])
