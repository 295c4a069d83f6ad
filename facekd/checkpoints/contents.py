"""Describes what a checkpoint holds, and turns it into the plain dict of the file and back.

Nothing else in facekd names a field of the file. `docs/formats.md` has the same fields as a table, and a test compares
the two. Unknown fields in a file are ignored. A new field needs a default, so that older files still load.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from facekd.errors import CheckpointError
from facekd.utils.foreign import shown
from facekd.utils.typed_values import Plain, Range, find_fault

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from torch import Tensor

FORMAT = "facekd-checkpoint"
VERSION = 1
SUFFIX = ".pt"
HEAD_SUFFIX = ".head"  # of the folder beside a checkpoint that `facekd.checkpoints.head_shards` writes


class _Name(TypedDict):
    name: str


class Architecture(_Name, total=False):
    """Describes `config["backbone"]`, the arguments of `build_backbone`, which checks their values."""

    embedding_size: int
    image_size: int
    width: float
    dropout: float
    class_name: str
    drop_path: float
    mask_ratio: float


class _Head(TypedDict, total=False):
    kind: Literal["margin", "linear"]


class _Data(TypedDict, total=False):
    center_crop: Annotated[float, Range(0, 1)]
    resize: bool


class _QualityHead(TypedDict, total=False):
    target: str
    weights: str


class Sections(TypedDict, total=False):
    """Describes what is used of `config`, apart from comparing it with that of a resumed run."""

    backbone: Architecture
    head: _Head
    data: _Data
    quality_head: _QualityHead
    schedule: dict[str, Plain]
    preprocessing: dict[str, Plain]


class _Group(TypedDict, total=False):
    params: list[int]


class OptimizerState(TypedDict, total=False):
    """Describes the state dict of an optimiser: the tensors of each parameter by its number, and which it trains."""

    state: dict[int, dict[str, Any]]
    param_groups: list[_Group]


class ScalerState(TypedDict, total=False):
    """Describes the state dict of a gradient scaler; empty without one."""

    scale: Annotated[float, Range(2.0**-126, 2.0**127)]
    growth_factor: Annotated[float, Range(1, 2.0**20)]
    backoff_factor: Annotated[float, Range(2.0**-20, 1)]
    growth_interval: Annotated[int, Range(1)]
    _growth_tracker: Annotated[int, Range(0)]


@dataclass
class HeadShards:
    """Says where the classifier's rows are stored if not in the file itself; see `facekd/checkpoints/head_shards.py`.

    Attributes:
        folder: name of the folder beside the checkpoint.
        shapes: rows and columns of each tensor, by its name.
        checksums: CRC-32 of each file in the folder, by its name; empty in the oldest files.
    """

    folder: str
    shapes: dict[str, list[int]]
    checksums: dict[str, int] = field(default_factory=dict)


@dataclass
class Progress:
    """Holds what an exact resume needs besides the weights.

    Attributes:
        images_seen: images that the run has trained on.
        total_images: images that the run is to train on.
        optimizer: state dict of the optimiser.
        scaler: state dict of the gradient scaler; empty without one.
        ema: state dict of the moving average, projection included; None without one.
        best_accuracy: best validation accuracy so far; -1 before the first validation.
        extras: what is learnt or counted beside backbone and head, a projection for instance.
        losses_since_log: losses of each step since the last line of the log.
        bad_records: a line for each record that could not be read.
    """

    images_seen: Annotated[int, Range(0)]
    total_images: Annotated[int, Range(1)]
    optimizer: OptimizerState
    scaler: ScalerState
    ema: dict[str, Tensor] | None
    best_accuracy: float
    extras: dict[str, Tensor]
    losses_since_log: list[list[float]]
    bad_records: list[str]


@dataclass
class Checkpoint:
    """Holds the contents of a checkpoint. A field that is None is absent from the file.

    Attributes:
        config: the run's configuration in plain types; its `backbone` has all arguments that build the backbone.
        preprocessing: `mean` and `std`, three numbers each in units of 0..255, and `color`.
        backbone: state dict of the backbone, as trained; absent from what `facekd rebuild-head` writes.
        ema: state dict of the backbone's moving average.
        projection: (E, D), applied to embeddings before they are compared; loading folds it into the backbone, or puts
            it behind a backbone that has no embedding layer.
        ema_projection: the projection's moving average.
        head: state dict of the classifier; without `weight` where `head_shards` has it.
        head_shards: where the classifier's rows are stored, if not under `head`.
        sub_centers: how many centres each class has, one behind the other in its row of the classifier; absent for 1.
        quality_head: state dict of what `facekd train-quality` puts behind the backbone; absent without.
        num_classes: classes of the data.
        labels_sha256: fingerprint of which image has which label.
        identities_sha256: fingerprint of the names of the labels; None where the data has no names.
        images_sha256: fingerprint of the images trained on; absent where they are generated, and in older files.
        teacher_fingerprint: fingerprint of the teacher; empty without one.
        training: what an exact resume needs; absent where there is no run to resume.
        source: file, SHA-256 and framework of an imported backbone, and its `color` where that was turned to RGB.
        identities: names of the labels, in order; absent where the data has no names, and in older files.
        plugins: for each name that a plug-in `provides`, such as "backbone tiny", its `name` and `sha256`; absent
            where there is none.
        started_from: whose weights the run began with: for `backbone` and `head` the `file`, its `sha256`, for a
            head the number of `classes` that were taken from it, and for a backbone that began as a part of a larger
            one the number of its `weights` and that one's, `of_weights`. Absent where all weights were fresh.
    """

    config: dict[str, Plain] = field(default_factory=dict)  # `Sections` has what is used of it
    preprocessing: dict[str, Plain] | None = None
    backbone: dict[str, Tensor] | None = None
    ema: dict[str, Tensor] | None = None
    projection: Tensor | None = None
    ema_projection: Tensor | None = None
    head: dict[str, Tensor] | None = None
    head_shards: HeadShards | None = None
    num_classes: Annotated[int, Range(1)] | None = None
    labels_sha256: str | None = None
    identities_sha256: str | None = None
    images_sha256: str | None = None
    teacher_fingerprint: str | None = None
    training: Progress | None = None
    source: dict[str, str] | None = None
    identities: list[str] | None = None
    started_from: dict[str, dict[str, Plain]] | None = None
    plugins: list[dict[str, str]] | None = None
    sub_centers: Annotated[int, Range(1, 64)] | None = None
    quality_head: dict[str, Tensor] | None = None

    @property
    def architecture(self) -> dict[str, Any] | None:
        """Returns all arguments that build the backbone; None if the file does not record them."""
        return self.config.get("backbone")

    @property
    def input_preprocessing(self) -> dict[str, Any]:
        """Returns `preprocessing`; the oldest files have it in their config."""
        return self.preprocessing or self.config.get("preprocessing", {})

    @property
    def head_kind(self) -> str:
        """Returns "margin" or "linear"; older files do not say, and hold margin classifiers."""
        return self.config.get("head", {}).get("kind", "margin")

    @property
    def quality_target(self) -> str:
        """Returns what the quality head was taught, "cr" or "sdd"; empty if nothing says so."""
        return self.config.get("quality_head", {}).get("target", "")

    @property
    def weights_in_words(self) -> str:
        """Returns which weights of a run `load_backbone` takes: "moving average" or "as trained"."""
        # A file of `facekd train-quality` holds those that its head was made for, and none besides.
        kept = self.config.get("quality_head", {}).get("weights")
        return kept or ("moving average" if self.ema else "as trained")

    @property
    def center_crop(self) -> float:
        """Returns the share of the shorter side that the run crops test images to; 0 means no crop."""
        return float(self.config.get("data", {}).get("center_crop", 0.0))

    @property
    def resize(self) -> bool:
        """Tells whether the run resized images of another size."""
        return bool(self.config.get("data", {}).get("resize", False))

    @property
    def head_folder(self) -> str | None:
        """Returns the name of the folder beside the checkpoint that holds the classifier's rows; None without one."""
        return None if self.head_shards is None else self.head_shards.folder

    @property
    def identity_map(self) -> dict[str, str | None]:
        """Returns both fingerprints of the labels, as `facekd.data.datasets.identity_map` compares them."""
        return {"labels_sha256": self.labels_sha256, "identities_sha256": self.identities_sha256}


def to_plain_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Turns a checkpoint into the dict of the file without copying tensors; leaves out fields that are None."""
    fields = _shallow(checkpoint)
    fields["head_shards"] = None if checkpoint.head_shards is None else _shallow(checkpoint.head_shards)
    fields["training"] = None if checkpoint.training is None else _shallow(checkpoint.training)
    for section, name in PACKED:
        where = fields if section is None else fields[section]
        if where is not None and len(where[name] or ()) > LONG_LIST:
            where[name] = _pack(where[name])
    content = {"format": FORMAT, "version": VERSION}
    content |= {name: value for name, value in fields.items() if value is not None}
    if checkpoint.labels_sha256 is not None:
        content["identities_sha256"] = checkpoint.identities_sha256  # data without names is recorded as such
    return content


def from_plain_fields(content: Mapping[str, Any], where: str) -> Checkpoint:
    """Checks the fields of a file and gives them their types.

    Args:
        content: what the file holds.
        where: the file, for messages.

    Raises:
        CheckpointError: a field is missing or has the wrong type.
    """
    # Long lists are packed.
    content = dict(content)
    for section, name in PACKED:
        holder = content if section is None else content.get(section)
        if isinstance(holder, dict) and name in holder:
            content_of = {**holder, name: _unpack(holder[name], f"{where}: damaged: its {name!r}")}
            content = content_of if section is None else {**content, section: content_of}

    # Names and types.
    import torch

    fault = find_fault(content, Checkpoint, names={"Tensor": torch.Tensor}) or _fault_of_config(content)
    if fault:
        raise CheckpointError(f"{where}: damaged: {fault}")

    # The two parts that have types of their own.
    values = _known(Checkpoint, content)
    for name, kind in (("head_shards", HeadShards), ("training", Progress)):
        if values.get(name) is not None:
            values[name] = kind(**_known(kind, values[name]))
    return Checkpoint(**values)


# Lists that grow with the data or the run, by section and name. Long ones are a tensor of bytes in the file, as JSON:
# what is no tensor stands in the file's pickle, of which only so much is read.
PACKED = ((None, "identities"), ("training", "losses_since_log"), ("training", "bad_records"))
LONG_LIST = 10_000


def _pack(values: list[Any]) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


def _unpack(value: Any, where: str) -> Any:
    """Returns the list that `_pack` made a tensor of; a list is returned as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype != torch.uint8 or value.ndim != 1:
        raise CheckpointError(f"{where} is {value.dtype} of {tuple(value.shape)}, expected bytes")
    try:
        return json.loads(value.numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON") from error


def _fault_of_config(content: Mapping[str, Any]) -> str:
    config = content.get("config", {})
    fault = find_fault(config, Sections, "config")
    unknown = config.get("backbone", {}).keys() - Architecture.__annotations__.keys() if not fault else ()
    return fault or (f"its 'config.backbone' has {shown(min(unknown))!r}, which no backbone takes" if unknown else "")


def _shallow(value: Any) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: content[item.name] for item in dataclasses.fields(kind) if item.name in content}
