"""Reads ONNX files that anybody may have made, and finds the files beside them that hold data of their tensors.

A tensor may name another file that its data lie in (`external_data`), and so a model that was fetched from somewhere
could make its user's computer open anything: a device without an end, a pipe that nobody writes to, somebody's key. As
in onnxruntime, the file must lie in the folder of the model; of a model that is a link, as in the cache of Hugging
Face, in the folder of the file that the link leads to as well. That holds for every tensor, used or not, wherever it is
in the model. No data are read here.
"""

from __future__ import annotations

import errno
import hashlib
import math
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.file_kinds import ONNX_FILE, describe_file
from facekd.errors import ModelError
from facekd.files.reading import require_regular_file, sha256_of_file
from facekd.utils.foreign import MAX_DIMENSIONS, shown
from facekd.utils.wording import agreeing, counted

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

MOST_BYTES = 2**31 - 1  # protocol buffers end here
MOST_NODES = 50_000  # with functions written out; onnxruntime takes minutes for them, and models of faces have 2,000
MOST_FIELDS = 2_000_000  # of a file, all that it says; 50,000 nodes have about a million
# Functions hold hardly any data, and data beside a file belong to one tensor each: what is named again and again makes
# a few bytes many. So all calls together, and all tensors, have at most so many times the bytes of the files, and some.
MOST_TIMES, SMALL = 4, 1 << 26
VALUES_IN_A_BYTE = 4  # at most: the smallest types have 2 bits
MEMORY_MARK = "_ORT_MEM_ADDR_"  # onnxruntime reads its own memory for a location of this name


@dataclass(frozen=True)
class OnnxFile:
    """Holds an ONNX file without the data that lie beside it.

    Attributes:
        path: the file.
        model: what it holds.
        data_files: the files that hold the other data of its tensors, in the order of the names it has for them; one
            that has several names by the first.
    """

    path: Path
    model: onnx.ModelProto
    data_files: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Returns all files that the model consists of, itself first."""
        return (self.path, *self.data_files)

    @property
    def sha256(self) -> str:
        """Returns the SHA-256 of the file; with data beside it, the SHA-256 of all those digests."""
        digests = [sha256_of_file(file) for file in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """Returns the file's `metadata_props`, name to text."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def read_onnx_file(path: Path) -> OnnxFile:
    """Reads an ONNX file, and checks what would make opening it harmful.

    Raises:
        ModelError: it is no whole ONNX file, is too large, has too many nodes, holds text that is no UTF-8, or a
            tensor that says more values than there are data for, or names another file than a regular one in the
            model's folder; or its functions or its tensors name the same bytes again and again.
    """
    model = _parse(path)
    if not model.graph.node:
        raise ModelError(f"{path}: holds no graph; was it copied or downloaded completely?")
    # Walked once for both: for large graphs that takes longer than parsing.
    nodes, tensors = _find(model, path)
    _check_nodes(model, path, len(nodes))

    # Every tensor, wherever it is. Weights beside the file are easily left behind.
    data = _DataBeside(path)
    missing = list[str]()
    for tensor in tensors:
        try:
            data.find(tensor)
        except FileNotFoundError as error:
            missing.append(shown(error.filename))
    if missing:
        missing = list(dict.fromkeys(missing))
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise ModelError(
            f"{path}: its weights lie in {', '.join(missing[:3])}{more}, missing in {path.parent}; copy them there"
        )
    # A file that has several names there is listed, and so hashed, once.
    names: dict[Path, Path] = {}
    for location in sorted(data.files):
        names.setdefault(data.files[location], path.parent / location)
    return OnnxFile(path, model, tuple(names.values()))


def load_external_data(part: Message, path: Path) -> None:
    """Reads the data that lie beside an ONNX file into all tensors of a message, such as a part of its graph.

    Args:
        part: changed in place.
        path: the ONNX file that it comes from.

    Raises:
        ModelError: see `read_onnx_file`.
    """
    data = _DataBeside(path)
    for tensor in _find(part, path)[1]:
        place = data.find(tensor)
        if place is not None:
            with place.file.open("rb") as stream:
                stream.seek(place.offset)
                tensor.raw_data = stream.read(place.length)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names that a node reads, including those that its inner graphs read or return from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {name for inner in graph.node for name in inner.output}
            made |= {entry.name for entry in (*graph.initializer, *graph.input)}
            read = (*(name for inner in graph.node for name in names_read(inner)), *(end.name for end in graph.output))
            yield from (name for name in read if name not in made)


def _parse(path: Path) -> onnx.ModelProto:
    """Parses an ONNX file; what is none is named."""
    import onnx
    from google.protobuf.message import DecodeError

    from facekd.embedder.onnx_models.fields import has_more_fields

    require_regular_file(path)
    size, says_too_much = path.stat().st_size, False
    if size <= MOST_BYTES:
        try:
            content = path.read_bytes()
            # A field takes two bytes, so that most files need not be counted.
            says_too_much = len(content) > 2 * MOST_FIELDS and has_more_fields(content, onnx.ModelProto, MOST_FIELDS)
            if not says_too_much:
                # Not `onnx.load`, which takes the name of a file for its format.
                return onnx.ModelProto.FromString(content)
        except DecodeError:
            pass
    kind = describe_file(path)
    if kind not in (ONNX_FILE, ""):
        raise ModelError(f"{path}: is {kind}, not an ONNX model")
    if says_too_much:
        raise ModelError(
            f"{path}: has more than {MOST_FIELDS:,} fields, in {counted(size, 'byte')}; no model of faces says so much"
        )
    if size > MOST_BYTES:
        raise ModelError(
            f"{path}: is no ONNX model: it has {counted(size, 'byte')}, and none has over {MOST_BYTES:,}; larger ones "
            "keep their weights in a file beside them"
        )
    raise ModelError(
        f"{path}: its {counted(size, 'byte is', 'bytes are')} not a whole ONNX model; was it copied or downloaded "
        "completely?"
    )


def _walk(root: Message, path: Path) -> Iterator[Any]:
    """Yields a message and all within it; refuses text that is no UTF-8, which protocol buffers give as bytes."""
    from google.protobuf.message import Message

    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting += [value] if isinstance(value, Message) else value
            elif field.type == field.TYPE_STRING:
                for text in [value] if isinstance(value, str | bytes) else value:
                    if isinstance(text, bytes):
                        found = shown(text.decode(errors="backslashreplace"))
                        raise ModelError(f"{path}: damaged: its {field.name} '{found}' is not UTF-8; fetch it again")


def _find(root: Message, path: Path) -> tuple[list[Any], list[Any]]:
    """Lists all nodes and all tensors in a message: of graphs at any depth, of functions and of attributes.

    Raises:
        ModelError: see `_walk`.
    """
    found: dict[str, list[Any]] = {"onnx.NodeProto": [], "onnx.TensorProto": []}
    for message in _walk(root, path):
        if (listed := found.get(message.DESCRIPTOR.full_name)) is not None:
            listed.append(message)
    nodes, tensors = found.values()
    return nodes, tensors


def _check_nodes(model: onnx.ModelProto, path: Path, num_nodes: int) -> None:
    """Checks how many nodes and bytes a model has when each call of a function is replaced by its body.

    Functions that call the next one twice are a billion nodes after thirty levels.

    Args:
        model: what the file holds.
        path: the file, for messages.
        num_nodes: nodes that the file has: in the graph, in branches and loops, in functions.

    Raises:
        ModelError: there are more than `MOST_NODES`, or the bytes are many times the file's.
    """
    if num_nodes > MOST_NODES:
        raise ModelError(f"{path}: has more than {MOST_NODES:,} nodes; too many")
    if not model.functions:
        return

    # With functions written out.
    bodies = {_key(body, body.name): [_key(node) for node in _find(body, path)[0]] for body in model.functions}
    sizes = {_key(body, body.name): body.ByteSize() for body in model.functions}
    most_bytes = SMALL + MOST_TIMES * path.stat().st_size
    calls, num_nodes, num_bytes = Counter(_key(node) for node in _find(model.graph, path)[0]), 0, 0
    for _ in range(len(bodies) + 1):  # a longer way is a function within itself, which onnxruntime refuses
        num_nodes += calls.total()
        num_bytes += sum(times * sizes.get(key, 0) for key, times in calls.items())
        if num_nodes > MOST_NODES:
            raise ModelError(
                f"{path}: has more than {MOST_NODES:,} nodes where its functions are written out; too many"
            )
        if num_bytes > most_bytes:
            more = counted(most_bytes, "byte")
            raise ModelError(f"{path}: has more than {more} where its functions are written out")
        deeper = Counter[tuple[str, ...]]()
        for key, times in calls.items():
            for inner in bodies.get(key, ()):
                deeper[inner] += times
        calls = deeper


def _key(item: Any, name: str | None = None) -> tuple[str, ...]:
    """Returns what tells the function that a node calls from others."""
    return item.domain or "ai.onnx", item.op_type if name is None else name, getattr(item, "overload", "")


@dataclass(frozen=True)
class _Place:
    """Says where the data of a tensor lie outside its ONNX file: `length` bytes from `offset` on."""

    file: Path
    offset: int
    length: int


class _DataBeside:
    """Finds the data of tensors that lie beside an ONNX file.

    Args:
        path: the ONNX file.

    Attributes:
        files: those found so far, by the name that the model has for them.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[str, Path] = {}
        self._path = path
        self._sizes: dict[Path, int] = {}
        self._num_bytes = self._num_there = 0  # of the tensors; of the files

    def find(self, tensor: onnx.TensorProto) -> _Place | None:
        """Checks that a tensor has the data that its shape says.

        Returns:
            Where the data lie; None for those in the ONNX file.

        Raises:
            ModelError: see `read_onnx_file`.
            FileNotFoundError: the file is not there; names it as the model does.
        """
        # The shape, which nobody has checked yet.
        name = f"tensor '{shown(tensor.name)}'" if tensor.name else "a tensor without a name"
        if len(tensor.dims) > MAX_DIMENSIONS:
            raise ModelError(f"{self._path}: damaged: {name} has {len(tensor.dims):,} dimensions; export it again")
        if any(size < 0 for size in tensor.dims):
            raise ModelError(f"{self._path}: damaged: {name} has a negative size; export it again")
        count = math.prod(tensor.dims)
        if tensor.data_location == tensor.EXTERNAL:
            return self._find_beside(tensor, name, count)
        if count > VALUES_IN_A_BYTE * tensor.ByteSize():
            raise ModelError(
                f"{self._path}: damaged: {name} has {_number(count)} {agreeing(count, 'value')} by its shape, and "
                "fewer in the file; fetch or export it again"
            )
        return None

    def _find_beside(self, tensor: onnx.TensorProto, name: str, count: int) -> _Place:
        """Finds the part of another file that a tensor of `count` values names."""
        path = self._path
        entries = {entry.key: entry.value for entry in tensor.external_data}
        kind = tensor.DataType.Name(tensor.data_type) if tensor.data_type in tensor.DataType.values() else "UNDEFINED"
        bits = _bits_of(kind)
        if bits is None or len(entries) != len(tensor.external_data):
            problem = f"is of type {kind}" if bits is None else "says twice"
            raise ModelError(f"{path}: damaged: {name} {problem} where its data lie; export it again")

        # The file, and whether the data can lie there.
        location = entries.get("location", "")
        if location not in self.files:
            self.files[location] = _find_data_file(location, name, path)
        file = self.files[location]
        if file not in self._sizes:
            self._sizes[file] = file.stat().st_size
            self._num_there += self._sizes[file]
        size = self._sizes[file]
        length, offset = -(-count * bits // 8), _whole_number(entries.get("offset", "0"))
        if offset is None or offset + length > size or _whole_number(entries.get("length", str(length))) != length:
            said = entries.get("offset", "0"), entries.get("length", "unsaid")
            place = f"offset {shown(said[0], 30)}, length {shown(said[1], 30)}"
            raise ModelError(
                f"{path}: the weights beside it do not fit it, copy them again: {name} needs {_number(length)} "
                f"{agreeing(length, 'byte')} of {shown(location)} ({place}), which has {size:,}"
            )

        # Many tensors of the same bytes would take the memory of each.
        self._num_bytes += length
        if self._num_bytes > SMALL + MOST_TIMES * self._num_there:
            raise ModelError(
                f"{path}: damaged: its tensors need {counted(self._num_bytes, 'byte')} and more of the files beside "
                f"it, which have {self._num_there:,}: they name the same data again and again; export it again"
            )
        return _Place(file, offset, length)


def _find_data_file(location: str, name: str, path: Path) -> Path:
    """Returns the file that a location means, without links; refuses all but regular files in the model's folder."""
    try:
        file = (path.parent / location).resolve()
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        file, mode = (path.parent / location).resolve(), 0
    except PermissionError:
        raise
    except (OSError, ValueError, RuntimeError):  # too long a name, a zero byte, links in a circle
        file, mode = Path("/"), 0
    folders = (path.parent.resolve(), path.resolve().parent)
    is_inside = any(file.is_relative_to(folder) for folder in folders)
    if not location or Path(location).is_absolute() or MEMORY_MARK in location or not is_inside:
        problem = "which is not in its folder"
    elif not mode:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", location)
    elif not stat.S_ISREG(mode):
        problem = "which is no regular file"
    else:
        return file
    raise ModelError(
        f"{path}: refused: the data of {name} are said to lie in '{shown(location)}', {problem}; only regular files in "
        "the folder of the model are read, by a path relative to it"
    )


def _bits_of(kind: str) -> int | None:
    """Returns the bits of a value by the name of its type; None for text, whose values have no size."""
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}.get(kind)


def _whole_number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None


def _number(value: int) -> str:
    return f"{value:,}" if value < 1 << 64 else "more than 2^64"
