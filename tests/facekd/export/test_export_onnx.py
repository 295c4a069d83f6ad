"""The exported file is what was promised, and nothing is left behind where it is not."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import facekd
from facekd.backbones.building import BACKBONES, build_backbone, fixed_embedding_size
from facekd.backbones.library_models import TORCHVISION_EMBEDDING_SIZES
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.data.datasets import open_dataset
from facekd.embedder import OnnxEmbedder, Preprocessing, TorchEmbedder, open_embedder
from facekd.embedder.classifying_model import OnnxClassifier
from facekd.errors import CheckpointError, ModelError, run_verb
from facekd.export.export_onnx import export_backbone, export_checkpoint, main
from facekd.export.options import ExportOptions
from facekd.files.reading import sha256_of_file
from tests.trained_like import trained_like

BACKBONE = {"name": "iresnet18", "embedding_size": 16, "image_size": 32, "width": 0.125, "dropout": 0.4}
PREPROCESSING = {"mean": [120.0, 110.0, 100.0], "std": [60.0, 59.0, 58.0], "color": "bgr"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "000000000640.pt"
    content: dict[str, Any] = {
        "config": {"backbone": BACKBONE},
        "preprocessing": PREPROCESSING,
        "backbone": trained_like(build_backbone(**BACKBONE), 32).state_dict(),
        "ema": trained_like(build_backbone(**BACKBONE), 32).state_dict(),
    }
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> Path:
    """The same run as one of image classification: a linear classifier behind the backbone."""
    content = torch.load(checkpoint, weights_only=True)
    content["config"] = {**content["config"], "head": {"kind": "linear"}, "data": {"center_crop": 0.875}}
    content |= {"head": {"weight": torch.randn(5, 16), "bias": torch.randn(5)}, "num_classes": 5}
    content["identities_sha256"] = hashlib.sha256("\n".join("abcde").encode()).hexdigest()
    path = checkpoint.with_name("classifier.pt")
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    assert run_verb(lambda: main([str(checkpoint.parent.parent), "--output", str(path)])) == 0
    return path


def small_backbone() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.PReLU(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6)
    )


def test_the_file_is_single_opset_18_with_a_dynamic_batch(exported: Path) -> None:
    files = {file.name for file in exported.parent.iterdir()}
    assert files == {"model.onnx", "model.model_card.md", "model.model_card.json"}
    model = onnx.load(exported, load_external_data=False)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    session = onnxruntime.InferenceSession(exported)
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [("images", ["batch", 3, 32, 32])]
    assert [(entry.name, entry.shape) for entry in session.get_outputs()] == [("embedding", ["batch", 16])]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 33])
def test_it_computes_what_torch_computes_at_any_batch(exported: Path, checkpoint: Path, count: int) -> None:
    # Straight through onnxruntime and a fresh backbone, none of the embedders between.
    x = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
    backbone = build_backbone(**BACKBONE).eval()
    backbone.load_state_dict(torch.load(checkpoint, weights_only=True)["ema"])
    with torch.no_grad():
        expected = backbone(x).numpy()
    found = onnxruntime.InferenceSession(exported).run(["embedding"], {"images": x.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_what_it_records_suffices_to_use_it(exported: Path, checkpoint: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert json.loads(metadata["mean"]) == PREPROCESSING["mean"]
    assert json.loads(metadata["std"]) == PREPROCESSING["std"]
    assert metadata["color"] == "bgr"
    assert metadata["image_size"] == "32"
    assert metadata["embedding_size"] == "16"
    assert metadata["normalized"] == "false"
    assert metadata["backbone"] == "iresnet18"
    assert json.loads(metadata["backbone_config"]) == BACKBONE
    assert metadata["weights"] == "moving average"
    assert metadata["checkpoint_sha256"] == sha256_of_file(checkpoint)
    assert metadata["facekd_version"] == facekd.__version__

    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    embedder = OnnxEmbedder(exported)
    reference = open_embedder(checkpoint)
    assert embedder.preprocessing == reference.preprocessing
    assert embedder.assumed == ()
    expected = reference.embed(images)
    np.testing.assert_allclose(embedder.embed(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_nothing_of_the_exporting_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    assert str(Path(facekd.__file__).parent).encode() not in content
    assert b"site-packages" not in content
    assert str(exported.parent).encode() not in content


def test_weights_as_trained_with_unit_norm(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    assert main([str(checkpoint), "--output", str(path), "--no-ema", "--normalize"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""  # the exporter's chatter is kept from the user
    assert re.search(r"model\.onnx: 0\.\d+ MB, opset 18", captured.out)
    assert re.search(
        r"batch 1: \d\.\de-\d+, batch 2: \d\.\de-\d+, batch 7: \d\.\de-\d+ \(at most 0\.001\)", captured.out
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    embedder = OnnxEmbedder(path)
    assert embedder.normalized
    assert embedder.metadata["weights"] == "as trained"
    plain = open_embedder(checkpoint, ema=False).embed(images)
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(images), expected, atol=1e-4)


def test_the_backbone_exported_is_not_changed(tmp_path: Path) -> None:
    backbone = nn.Sequential(small_backbone(), nn.BatchNorm1d(6)).train()
    backbone[0].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    report = export_backbone(backbone, Preprocessing(image_size=16), tmp_path / "m.onnx", metadata={"note": "by hand"})
    assert backbone.training
    assert not backbone[0].training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert set(report.parity) == {1, 2, 7}
    assert max(report.parity.values()) < 1e-4
    assert report.num_bytes == report.path.stat().st_size
    assert OnnxEmbedder(report.path).metadata == report.metadata
    assert report.metadata["note"] == "by hand"


class DiffersInExport(nn.Module):
    """A backbone whose traced form computes something else, by little."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.backbone = small_backbone()
        self.amount = amount

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = self.backbone(images)
        return embedding * (1 + self.amount) if torch.compiler.is_exporting() else embedding


def test_a_model_that_differs_from_torch_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the export of yesterday")
    with pytest.raises(ModelError, match=r"differs from torch: relative error 5\.\d\de-03 at batch \d, at most 0\.001"):
        export_backbone(DiffersInExport(5e-3), Preprocessing(image_size=16), path)
    assert path.read_bytes() == b"the export of yesterday"
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    report = export_backbone(DiffersInExport(5e-3), Preprocessing(image_size=16), path, ExportOptions(tolerance=0.01))
    assert report.parity[7] == pytest.approx(5e-3, rel=0.01)


class FixedBatch(nn.Module):
    """Right at the batch it is traced with, wrong in all others."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_backbone()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedding = self.backbone(images)
        return embedding[[0, 1]] if torch.compiler.is_exporting() else embedding


class NotTraceable(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.mean().item() > 1e6:
            return images.flatten(1)
        return images.flatten(1)[:, :6]


class Broken(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) * torch.nan


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (FixedBatch(), "batch of 'embedding' is fixed"),
        (NotTraceable(), "torch cannot export this backbone"),
        (Broken(), "the backbone itself fails in torch: .*not finite"),
        (nn.Linear(7, 2), "the backbone itself fails in torch: .*shapes cannot be multiplied"),
    ],
    ids=["fixed batch", "not traceable", "not finite", "another input"],
)
def test_backbones_that_cannot_be_exported_leave_nothing(backbone: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export_backbone(backbone, Preprocessing(image_size=16), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_onnxscript_too_old_for_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As torch 2.11 does with onnxscript 0.5.
    absent = ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: (_ for _ in ()).throw(absent))
    with pytest.raises(ModelError, match=r"m\.onnx: .*torch_2_11.*`pip install --upgrade onnxscript onnx`"):
        export_backbone(FixedBatch(), Preprocessing(image_size=16), tmp_path / "m.onnx")


def test_outputs_and_checkpoints_that_cannot_be(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must be named \*\.onnx"):
        export_checkpoint(checkpoint, tmp_path / "model.pt")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"is a folder; name a file in it"):
        export_checkpoint(checkpoint, tmp_path / "folder.onnx")
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such checkpoint"):
        export_checkpoint(tmp_path / "absent.pt", tmp_path / "model.onnx")
    content = torch.load(checkpoint, weights_only=True)
    del content["ema"]
    save_checkpoint(tmp_path / "no_average.pt", content)
    with pytest.raises(CheckpointError, match="no moving average"):
        export_checkpoint(tmp_path / "no_average.pt", tmp_path / "model.onnx", ema=True)


def test_the_command_reports_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tmp_path / "absent.pt"), "--output", str(tmp_path / "model.onnx")]
    assert run_verb(lambda: main(argv)) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'absent.pt'}: no such checkpoint")


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "facekd export runs/" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("full_depth")
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [112, 64])
def test_every_backbone_exports(name: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Full width for those that train on a CPU; an eighth of it shows the same graph for the deep ones.
    is_wide = name.startswith("mobilefacenet") or name in TORCHVISION_EMBEDDING_SIZES
    width = 1.0 if is_wide else 0.125
    embedding_size = fixed_embedding_size(name, width) or 64
    backbone = trained_like(build_backbone(name, embedding_size=embedding_size, image_size=size, width=width), size)
    report = export_backbone(backbone, Preprocessing(image_size=size), tmp_path / "m.onnx")
    assert max(report.parity.values()) < 1e-4
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    expected = TorchEmbedder(backbone, Preprocessing(image_size=size)).embed(images)
    found = OnnxEmbedder(report.path).embed(images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("option", "field", "weights"),
    [
        ([], "ema", "moving average"),
        pytest.param(["--ema"], "ema", "moving average", marks=pytest.mark.slow),
        pytest.param(["--no-ema"], "backbone", "as trained", marks=pytest.mark.slow),
    ],
)
def test_a_classifier_is_exported_with_the_weights_that_were_asked_for(
    classifier: Path, tmp_path: Path, option: list[str], field: str, weights: str
) -> None:
    path = tmp_path / "classifier.onnx"
    assert main([str(classifier), "--output", str(path), *option]) == 0
    found = OnnxEmbedder(path)
    assert found.metadata["weights"] == weights
    content = torch.load(classifier, weights_only=True)
    backbone = build_backbone(**BACKBONE)
    backbone.load_state_dict(content[field])
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    embeddings = TorchEmbedder(backbone, found.preprocessing).embed(images)
    expected = embeddings @ content["head"]["weight"].numpy().T + content["head"]["bias"].numpy()
    np.testing.assert_allclose(found.embed(images), expected, atol=1e-4 * np.abs(expected).max())

    # It knows the names of its classes: as many others are not the same.
    for names in ("abcde", "abcdz"):
        for name in names:
            (tmp_path / names / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / names / name / "1.png"), images[0])
    network = OnnxClassifier(path)
    network.check_classes(open_dataset(tmp_path / "abcde", 32), "abcde")
    with pytest.raises(CheckpointError, match=r"was trained on classes with other names than those of abcdz"):
        network.check_classes(open_dataset(tmp_path / "abcdz", 32), "abcdz")


def test_a_classifier_without_a_moving_average_refuses_ema(classifier: Path, tmp_path: Path) -> None:
    content = torch.load(classifier, weights_only=True)
    del content["ema"]
    save_checkpoint(tmp_path / "no_average.pt", content)
    with pytest.raises(CheckpointError, match="holds no moving average"):
        main([str(tmp_path / "no_average.pt"), "--output", str(tmp_path / "model.onnx"), "--ema"])
