"""Torch modules as embedders, and opening a model by what its file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.distributed import join_world
from facekd.embedder import Embedder, Preprocessing, TorchEmbedder, embed_with_flip, open_embedder
from facekd.errors import FacekdError, ModelError

BACKBONE = {"name": "mobilefacenet", "embedding_size": 16, "image_size": 32, "width": 0.25, "dropout": 0.0}
IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def make_images(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def make_module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 6),
    )


def naive_embedding(module: nn.Module, images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """One image, one channel at a time, in evaluation mode."""
    order = [0, 1, 2] if preprocessing.color == "rgb" else [2, 1, 0]
    was_training = module.training
    module.eval()
    rows = []
    for image in images:
        planes = [(image[:, :, c] - preprocessing.mean[c]) / preprocessing.std[c] for c in order]
        with torch.no_grad():
            rows.append(module(torch.tensor(np.stack(planes), dtype=torch.float32)[None])[0].numpy())
    module.train(was_training)
    return np.stack(rows)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_embeddings_are_those_of_the_images_one_by_one(color: str, count: int) -> None:
    preprocessing = Preprocessing((10, 20, 30), (40, 50, 60), color, 16)
    module = make_module().train()
    embedder = TorchEmbedder(module, preprocessing, batch_size=4)
    embeddings = embedder.embed(make_images(count))
    expected = naive_embedding(module, make_images(count), preprocessing)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert embeddings.dtype == np.float32
    assert isinstance(embedder, Embedder)


def test_by_default_a_cpu_is_given_few_images_at_once():
    module, counts = make_module(), []
    module.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    embedder = TorchEmbedder(module, Preprocessing(image_size=16))
    counts.clear()
    embedder.embed(make_images(40))
    assert counts == [16, 16, 8]


def test_no_images_give_no_embeddings() -> None:
    embedder = TorchEmbedder(make_module(), Preprocessing(image_size=16))
    assert embedder.embed(make_images(0)).shape == (0, 6)
    assert embedder.embedding_size == 6


def test_normalized_embeddings_have_unit_norm_and_the_same_direction() -> None:
    module, preprocessing = make_module(), Preprocessing(image_size=16)
    plain = TorchEmbedder(module, preprocessing).embed(make_images(5))
    embedder = TorchEmbedder(module, preprocessing, normalize=True)
    np.testing.assert_allclose(
        embedder.embed(make_images(5)), plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
    )
    assert embedder.normalized


def test_flipped_embeddings_are_those_of_the_mirror_images() -> None:
    embedder = TorchEmbedder(make_module(), Preprocessing(image_size=16))
    images = make_images(3)
    plain, flipped = embed_with_flip(embedder, images)
    np.testing.assert_array_equal(plain, embedder.embed(images))
    np.testing.assert_array_equal(flipped, embedder.embed(np.stack([np.fliplr(image) for image in images])))


def test_a_module_in_training_is_left_as_it_was() -> None:
    module = make_module().train()
    module[1].eval()  # a frozen batch norm
    before = {name: value.clone() for name, value in module.state_dict().items()}
    TorchEmbedder(module, Preprocessing(image_size=16)).embed(make_images(4))
    assert [child.training for child in module] == [True, False, True, True, True, True]
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    module(torch.zeros(2, 3, 16, 16)).sum().backward()  # and it can still learn


def test_autocast_changes_little() -> None:
    module, preprocessing = make_module(), Preprocessing(image_size=16)
    exact = TorchEmbedder(module, preprocessing).embed(make_images(4))
    mixed = TorchEmbedder(module, preprocessing, autocast=torch.bfloat16).embed(make_images(4))
    assert not np.array_equal(exact, mixed)
    np.testing.assert_allclose(mixed, exact, atol=0.05)


def test_fingerprint_follows_the_weights_as_they_are_now() -> None:
    module, preprocessing = make_module(), Preprocessing(image_size=16)
    embedder = TorchEmbedder(module, preprocessing)
    fingerprint = embedder.fingerprint
    assert TorchEmbedder(make_module(), preprocessing, batch_size=3).fingerprint == fingerprint
    assert TorchEmbedder(module, Preprocessing(color="bgr", image_size=16)).fingerprint != fingerprint
    assert TorchEmbedder(module, preprocessing, normalize=True).fingerprint != fingerprint
    with torch.no_grad():
        module[5].bias[0] += 1e-3
    assert embedder.fingerprint != fingerprint
    assert TorchEmbedder(module.to(torch.bfloat16), preprocessing, autocast=torch.bfloat16).fingerprint != fingerprint


def test_a_frozen_module_runs_as_a_copy_with_its_norms_folded_and_is_the_same_model() -> None:
    module, preprocessing, images = make_module(), Preprocessing(image_size=16), make_images(4)
    nn.init.uniform_(module[1].running_var, 0.1, 3.0)
    nn.init.uniform_(module[1].running_mean, -1.0, 1.0)
    plain, frozen = TorchEmbedder(module, preprocessing), TorchEmbedder(module, preprocessing, frozen=True)
    mixed = TorchEmbedder(module, preprocessing, autocast=torch.bfloat16, frozen=True)  # too coarse to fold
    before, fingerprint = plain.embed(images), plain.fingerprint
    np.testing.assert_allclose(frozen.embed(images), before, rtol=1e-5, atol=1e-5)
    assert frozen.fingerprint == fingerprint
    with torch.no_grad():
        module[5].bias += 1.0
    np.testing.assert_allclose(frozen.embed(images), before, rtol=1e-5, atol=1e-5)
    assert frozen.fingerprint == fingerprint != plain.fingerprint
    assert np.abs(mixed.embed(images) - before).min() > 0.5


def test_modules_that_do_not_embed_are_refused() -> None:
    preprocessing = Preprocessing(image_size=16)
    with pytest.raises(ModelError, match=r"returns shape \(1, 3, 16, 16\) for 1 image"):
        TorchEmbedder(nn.Identity(), preprocessing)
    module = make_module()
    with torch.no_grad():
        module[5].weight[2, 0] = torch.nan
    with pytest.raises(ModelError, match="4 of 4 embeddings are not finite"):
        TorchEmbedder(module, preprocessing).embed(make_images(4))
    with pytest.raises(ModelError, match="images are 8 x 8, the model takes 16 x 16"):
        TorchEmbedder(make_module(), preprocessing).embed(make_images(4, size=8))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint, whose moving average differs from its weights."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    content: dict[str, Any] = {
        "config": {"backbone": BACKBONE},
        "preprocessing": {**IMAGENET, "color": "bgr"},
        "backbone": build_backbone(**BACKBONE).state_dict(),
        "ema": build_backbone(**BACKBONE).state_dict(),
    }
    save_checkpoint(folder / "checkpoints" / "000000000100.pt", content)
    return folder


def test_a_checkpoint_opens_with_its_preprocessing_and_its_moving_average(run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoints" / "000000000100.pt"
    embedder = open_embedder(checkpoint)
    assert isinstance(embedder, TorchEmbedder)
    assert embedder.preprocessing == Preprocessing(**IMAGENET, color="bgr", image_size=32)
    content = torch.load(checkpoint, weights_only=True)
    for weights, opened in [("ema", embedder), ("backbone", open_embedder(checkpoint, ema=False, threads=None))]:
        backbone = build_backbone(**BACKBONE)
        backbone.load_state_dict(content[weights])
        expected = naive_embedding(backbone, make_images(2, 32), embedder.preprocessing)
        np.testing.assert_allclose(opened.embed(make_images(2, 32)), expected, rtol=1e-3, atol=1e-4)
    # The folder of a run stands for its latest checkpoint.
    assert open_embedder(run_folder).fingerprint == embedder.fingerprint


def test_flags_override_a_checkpoint_where_they_can(run_folder: Path) -> None:
    embedder = open_embedder(run_folder, color="rgb", std=128, normalize=True, batch_size=2)
    assert embedder.preprocessing == Preprocessing(IMAGENET["mean"], 128, "rgb", 32)  # type: ignore[arg-type]
    assert embedder.normalized
    said = (
        "std 128 is given, and the file records 58.395, 57.12, 57.375",
        "color rgb is given, and the file records bgr",
    )
    assert embedder.remarks == said and open_embedder(run_folder, color="bgr", mean=IMAGENET["mean"]).remarks == ()
    assert open_embedder(run_folder, image_size=32).preprocessing.image_size == 32
    with pytest.raises(ModelError, match="takes images of 32 pixels, not 112"):
        open_embedder(run_folder, image_size=112)
    with pytest.raises(ModelError, match="is a checkpoint, which takes no option 'threads'"):
        open_embedder(run_folder, threads=2)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx: no such file"):
        open_embedder(tmp_path / "absent.onnx")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ModelError, match="is a text file; expected an ONNX file or a checkpoint"):
        open_embedder(text)
    text.write_text("")
    with pytest.raises(ModelError, match=r"notes\.txt: is empty"):
        open_embedder(text)


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda", 0, "device cuda was asked for, but torch .* sees no GPU; use --device cpu"),
        ("cuda:1", 1, "device cuda:1 was asked for, and this machine has 1 GPU, counted from 0"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(
    device: str, count: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(FacekdError, match=message):
        TorchEmbedder(make_module(), Preprocessing(image_size=16), device)
    with pytest.raises(FacekdError, match=message), join_world(device):
        pass
