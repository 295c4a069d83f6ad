"""Whatever kind of value stands in a field of a model's file, every reader ends in a sentence that names the file."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.backbones.building import BACKBONES, build_backbone, fixed_embedding_size
from facekd.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from facekd.checkpoints.models import find_misfit, load_backbone, plan_backbone
from facekd.checkpoints.shared_head import read_classifier
from facekd.embedder.classifying_model import load_logit_network, open_classifying_model
from facekd.errors import FacekdError
from facekd.importing.backbones import import_backbone
from facekd.importing.classifiers import join_classifier
from facekd.quality.head import QualityHead
from tests.hostile_values import ARCHITECTURE, KINDS, Tiny, changed, check_ends_in_a_sentence, places

PREPROCESSING = {"mean": [127.5] * 3, "std": [128.0] * 3, "color": "rgb"}


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Tiny)
        yield


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """A checkpoint with every field, small, and only the first and last of the tensors of a state dict."""
    torch.manual_seed(0)
    weights = build_backbone(**ARCHITECTURE).state_dict()
    shards = {"folder": "5.head", "shapes": {"weight": [3, 4]}, "checksums": {"a": 1}}
    training = {
        "images_seen": 5,
        "total_images": 10,
        "scaler": {},
        "ema": None,
        "best_accuracy": 0.5,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
        "extras": {"projection.weight": torch.ones(4, 4)},
        "losses_since_log": [[1.0]],
        "bad_records": ["a"],
    }
    return {
        "config": {
            "backbone": ARCHITECTURE,
            "head": {"kind": "linear"},
            "data": {"center_crop": 0.5},
            "quality_head": {"target": "cr", "weights": "as trained"},
        },
        "preprocessing": PREPROCESSING,
        "backbone": weights,
        "ema": weights,
        "projection": torch.eye(4),
        "ema_projection": torch.eye(4),
        "head": {"weight": torch.ones(3, 4), "bias": torch.ones(3)},
        "head_shards": shards,
        "num_classes": 3,
        "labels_sha256": "a",
        "identities_sha256": None,
        "source": {},
        "images_sha256": "a",
        "teacher_fingerprint": "a",
        "training": training,
        "identities": ["a", "b", "c"],
        "started_from": {"backbone": {"file": "a", "sha256": "b"}},
        "plugins": [{"name": "a"}],
        "sub_centers": 1,
        "quality_head": QualityHead(4, 2).state_dict(),
    }


def open_twice(path: Path) -> None:
    open_classifying_model(path, teacher_head=path, mixes=[0.5])


READERS = (partial(load_backbone, scored=True), read_classifier, load_logit_network, open_twice)


def read_changed(
    content: dict[str, Any], kinds: list[list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Puts values of the n-th kinds, one after the other, into the n-th place of a content, and reads each."""
    found: dict[str, Any] = {}
    monkeypatch.setattr("facekd.checkpoints.checkpoint.read_torch_file", lambda *_, **__: found)
    monkeypatch.setattr("facekd.checkpoints.checkpoint.describe_file", lambda _: "")
    (folder / "a.pt").touch()
    without_shards = {name: value for name, value in content.items() if name != "head_shards"}
    for place, here in zip(places(content), itertools.cycle(kinds)):
        for kind in here:
            found = {"format": "facekd-checkpoint", "version": 1}
            found |= changed(content if place[0] == "head_shards" else without_shards, place, KINDS[kind])
            for read in READERS:
                check_ends_in_a_sentence(read, folder / "a.pt", f"{kind} at {place}")


def test_values_of_other_kinds_end_in_a_sentence(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(KINDS)  # a few for each place; the next test takes all
    read_changed(content, [names[n::11] for n in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8)], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_value_in_every_field_ends_in_a_sentence(
    kind: str, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_changed(content, [[kind]], tmp_path, monkeypatch)


def test_the_contents_are_accepted_as_they_are(content: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {name: value for name, value in content.items() if name != "head_shards"})
    for read in READERS:
        read(tmp_path / "a.pt")
    assert set(content) == {item.name for item in dataclasses.fields(read_checkpoint(tmp_path / "a.pt"))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"embedding_size": 10**9},
            r"backbone does not fit .* \(linear.weight is \(4, 8\), expected \(1000000000, 8\)",
        ),
        ({"width": 1e9}, r"conv.weight is \(8, 3, 3, 3\), expected \(8000000000, 3, 3, 3\)"),
        ({"width": 1e300}, "damaged: the sizes of its backbone are far beyond any network"),
        ({"embedding_size": 2**62}, "far beyond any network"),
        ({"image_size": True}, "its 'config.backbone.image_size' is True, expected a whole number"),
        ({"width": float("nan")}, "damaged: backbone.width must be a positive number, not nan"),
        ({"name": "tin"}, "damaged: backbone.name 'tin' is unknown: did you mean 'tiny'"),
    ],
)
def test_a_network_is_compared_with_its_file_before_it_takes_memory(
    changes: dict[str, Any], message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    stated = changed(content, ("config", "backbone"), {**ARCHITECTURE, **changes})
    save_checkpoint(tmp_path / "a.pt", {name: value for name, value in stated.items() if name != "head_shards"})
    with pytest.raises(FacekdError, match=rf"a\.pt: .*{message}"):
        load_backbone(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("ema", "conv.weight"), torch.ones(8, 3, 3, 3, dtype=torch.complex64), "is complex64, expected float32"),
        (("ema", "conv.weight"), torch.ones(8, 3, 3, 3, dtype=torch.int8), "is int8, expected float32"),
        (("ema", "conv.weight"), torch.ones(8, 3, 3, 3) > 0, "is bool, expected float32"),
        (("ema", "norm.num_batches_tracked"), torch.tensor(1.5), "is float32, expected int64"),
        (("ema", "conv.weight"), torch.full((8, 3, 3, 3), torch.nan), "conv.weight holds NaN or infinity: take an"),
        (("ema", "norm.bias"), torch.full((4,), 1e300, dtype=torch.float64), "norm.bias holds NaN or infinity"),
        (("ema", "norm.bias"), torch.ones(5), r"norm.bias is \(5,\), expected \(4,\)"),
        (("ema_projection",), torch.ones(4), r"its projection is float32 \(4,\), expected numbers of shape \(E, 4\)"),
        (("ema_projection",), torch.ones(4, 5), r"shape \(4, 5\) does not lead from embeddings of 4"),
        (("ema_projection",), torch.ones(9000, 4), "with E up to 8,192"),
        (("ema_projection",), torch.eye(4, dtype=torch.complex64), "its projection is complex64"),
        (("preprocessing", "std"), 0.5, "its preprocessing: std .* is below 1"),
        (("preprocessing", "size"), 3, "its preprocessing has mean, std, color, ..., expected mean, std, color"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    place: tuple[str, ...], value: Any, message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    found = changed(content, place, value)
    save_checkpoint(tmp_path / "a.pt", {name: value for name, value in found.items() if name != "head_shards"})
    with pytest.raises(FacekdError, match=rf"a\.pt: .*{message}"):
        load_backbone(tmp_path / "a.pt")


def test_weights_of_another_precision_are_taken_as_float32(content: dict[str, Any], tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        weights = {name: value.to(dtype) if value.ndim else value for name, value in content["ema"].items()}
        stored = {**content, "ema": weights, "ema_projection": None, "head_shards": None}
        save_checkpoint(tmp_path / "a.pt", stored)
        for name, value in load_backbone(tmp_path / "a.pt")[0].state_dict().items():
            torch.testing.assert_close(value, content["ema"][name].to(dtype).to(value.dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"weight": torch.ones(3)}, r"'head.weight' is float32 \(3,\), expected numbers of shape \(C, D\)"),
        ({"weight": torch.tensor(3.0)}, r"'head.weight' is float32 \(\), expected"),
        ({"weight": torch.ones(0, 4)}, r"'head.weight' is float32 \(0, 4\), expected"),
        ({"weight": torch.ones(3, 4, dtype=torch.int64)}, "'head.weight' is int64"),
        ({"weight": torch.ones(3, 4), "bias": torch.ones(2)}, r"'head.bias' is .* expected numbers of shape \(3,\)"),
        ({"weight": torch.ones(3, 4), "norm_std": torch.ones(())}, "expected no such tensor in a linear classifier"),
        ({"weight": torch.ones(5, 4)}, "its classifier has 5 classes, and its 'num_classes' says 3"),
        ({"weight": torch.full((3, 4), torch.nan)}, "NaN or infinity|not finite"),
    ],
)
def test_classifiers_of_impossible_shapes_are_refused(
    head: dict[str, torch.Tensor], message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.pt", {**content, "head": head, "head_shards": None})
    for read in (read_classifier, load_logit_network):
        with pytest.raises(FacekdError, match=rf"a\.pt: .*{message}"):
            read(tmp_path / "a.pt")


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "tiny"])
def test_a_network_without_numbers_says_what_weights_it_takes(name: str) -> None:
    size = fixed_embedding_size(name) or 8
    plan = plan_backbone({"name": name, "embedding_size": size, "image_size": 32})
    tensors = [*dict(plan.named_parameters()), *dict(plan.named_buffers())]
    assert all(value.is_meta for value in plan.state_dict().values())
    assert "of another shape" in find_misfit(plan.state_dict(), {name: torch.ones(1) for name in tensors})


def test_an_imported_file_of_other_kinds_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {
        "layer1.0.prelu.weight": (8,),
        "layer4.0.conv2.weight": (8, 8, 3, 3),
        "fc.weight": (4, 32),
        "features.weight": (4,),
        "conv1.weight": (8, 3, 3, 3),
    }
    mobile = {
        "layers.0.layers.0.weight": (8, 3, 3, 3),
        "conv_sep.layers.0.weight": (8, 8, 1, 1),
        "layers.1.layers.0.weight": (8, 1, 3, 3),
        "features.layers.2.weight": (4, 8),
        "features.layers.0.layers.0.weight": (8, 1, 2, 2),
    }
    adaface = {
        "input_layer.0.weight": (8, 3, 3, 3),
        "body.0.res_layer.1.weight": (8, 8, 3, 3),
        "body.0.res_layer.4.weight": (8, 8, 3, 3),
        "output_layer.3.weight": (4, 32),
    }
    vit = {"patch_embed.proj.weight": (32, 3, 9, 9), "pos_embed": (1, 144, 32), "feature.2.weight": (4, 32)}
    content: dict[str, Any] = {"epoch": 1, "global_step": 2, "state_dict_softmax_fc": {"weight": torch.ones(3, 4)}}
    adaface_head = {"head.kernel": torch.ones(4, 3), "head.batch_mean": torch.ones(1)}
    found: Any = None
    monkeypatch.setattr("facekd.importing.weight_files.read_torch_file", lambda *_, **__: found)
    monkeypatch.setattr("facekd.importing.weight_files.describe_file", lambda _: "")
    path = tmp_path / "checkpoint_gpu_0.pt"
    path.touch()
    for file in ("checkpoint_gpu_1.pt", "checkpoint_gpu_99999999999.pt"):
        (tmp_path / file).touch()
    for kinds in (shapes, mobile, adaface, vit):
        content["state_dict_backbone"] = {name: torch.ones(shape) for name, shape in kinds.items()}
        for place in places(content):
            for kind, value in KINDS.items():
                found = changed(content, place, value)
                assert not check_ends_in_a_sentence(import_backbone, path, f"{kind} at {place}")
                check_ends_in_a_sentence(join_classifier, path, f"{kind} at {place}")
    content = {"state_dict": {"model.conv1.weight": torch.ones(8, 3, 3, 3), **adaface_head}}
    for place in places(content):
        for kind, value in KINDS.items():
            found = changed(content, place, value)
            check_ends_in_a_sentence(join_classifier, path, f"{kind} at {place}")
    for found in KINDS.values():  # noqa: B007 - what the reader finds
        check_ends_in_a_sentence(import_backbone, path, "instead of all")
