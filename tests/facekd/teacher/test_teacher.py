"""A live teacher embeds a batch as its embedder embeds the images a student sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.data.datasets import SyntheticDataset
from facekd.data.loading.batch import Batch
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.embedder import open_embedder
from facekd.errors import ModelError, TeacherError
from facekd.export.export_onnx import export_checkpoint
from facekd.teacher.config import TeacherConfig
from facekd.teacher.teacher import LiveTeacher, open_teacher
from tests.prelu_graph import write_prelu_network

CPU = torch.device("cpu")
SIZE, COUNT = 32, 21
DATASET = SyntheticDataset(6, 6, SIZE, 1)
FLIPS = {
    "none": np.zeros(COUNT, dtype=bool),
    "all": np.ones(COUNT, dtype=bool),
    "some": np.random.default_rng(1).random(COUNT) < 0.5,
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    architecture = {"name": "mobilefacenet", "embedding_size": 16, "image_size": SIZE, "width": 0.125, "dropout": 0.2}
    content = {
        "config": {"backbone": architecture},
        "preprocessing": {"mean": [120.0, 110.0, 100.0], "std": [60.0, 61.0, 62.0], "color": "rgb"},
        "backbone": build_backbone(**architecture).state_dict(),
    }
    path = tmp_path_factory.mktemp("teacher") / "model.pt"
    save_checkpoint(path, content)
    return path


def make_batch(flip: np.ndarray, size: int = SIZE) -> Batch:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, size, size, 3), dtype=np.uint8)
    positions = torch.arange(100, 100 + COUNT)
    return Batch(torch.from_numpy(images), torch.zeros(COUNT, dtype=torch.int64), positions, torch.from_numpy(flip), [])


def seen(batch: Batch) -> np.ndarray:
    """The images as the student sees them, one by one."""
    pairs = zip(batch.images.numpy(), batch.flip.numpy(), strict=True)
    return np.stack([np.fliplr(image) if is_flipped else image for image, is_flipped in pairs])


def open_live(
    config: TeacherConfig, size: int = SIZE, autocast: torch.dtype | None = None, device: torch.device = CPU
) -> LiveTeacher:
    sampler = PositionSampler(FullShuffle(len(DATASET), 3), 1)
    teacher = open_teacher(config, DATASET, sampler, size, autocast, device)
    assert isinstance(teacher, LiveTeacher)
    return teacher


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_embeddings_are_the_embedders_to_the_bit(
    flip: str, color: str, autocast: torch.dtype | None, model: Path
) -> None:
    batch = make_batch(FLIPS[flip])
    teacher = open_live(TeacherConfig(model=str(model), color=color), autocast=autocast)  # type: ignore[arg-type]
    expected = open_embedder(model, color=color, autocast=autocast).embed(seen(batch))
    found = teacher.embed(batch)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(batch.images.numpy(), make_batch(FLIPS[flip]).images.numpy())  # left as they were


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("size", [24, pytest.param(48, marks=pytest.mark.slow)])
def test_images_of_another_size_are_resized_as_the_embedder_does(flip: str, size: int, model: Path) -> None:
    batch = make_batch(FLIPS[flip], size)
    teacher = open_live(TeacherConfig(model=str(model), resize=True), size)
    expected = open_embedder(model, resize=True).embed(seen(batch))
    np.testing.assert_array_equal(teacher.embed(batch).numpy(), expected)
    with pytest.raises(TeacherError, match=f"images of 32 pixels, the student's are {size}: set teacher.resize"):
        open_live(TeacherConfig(model=str(model)), size)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_checkpoint(model, path)
    return path


def test_an_onnx_teacher_gives_its_embedders_embeddings(exported: Path) -> None:
    batch = make_batch(FLIPS["some"])
    found = open_live(TeacherConfig(model=str(exported))).embed(batch)
    np.testing.assert_array_equal(found.numpy(), open_embedder(exported).embed(seen(batch)))


def test_the_output_of_an_onnx_teacher_is_chosen_and_what_was_assumed_is_said(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A foreign file: no records, and two outputs of several values.
    path = tmp_path / "model.onnx"
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    feature = next(node for node in foreign.graph.node if "embedding" in node.output)
    feature.output[list(feature.output).index("embedding")] = foreign.graph.output[0].name = "feature"
    foreign.graph.node.append(onnx.helper.make_node("Neg", ["feature"], ["negative"]))
    foreign.graph.output.append(onnx.helper.make_tensor_value_info("negative", 1, ["batch", 16]))
    onnx.save(foreign, path)
    with pytest.raises(ModelError, match="say which is the embedding"):
        open_live(TeacherConfig(model=str(path)))
    batch = make_batch(FLIPS["some"])
    found = [open_live(TeacherConfig(model=str(path), embedding_output=name)) for name in ("feature", "negative")]
    assert "model.onnx does not record its preprocessing; assumed: mean (127.5" in capsys.readouterr().err
    np.testing.assert_array_equal(found[0].embed(batch).numpy(), -found[1].embed(batch).numpy())
    assert found[0].fingerprint != found[1].fingerprint


def test_images_that_lie_on_the_device_are_taken_from_there(model: Path) -> None:
    batch = make_batch(FLIPS["some"])
    sent = batch._replace(images=torch.zeros_like(batch.images), on_device=(batch.images, batch.flip))
    teacher = open_live(TeacherConfig(model=str(model)))
    torch.testing.assert_close(teacher.embed(sent), teacher.embed(batch), rtol=0, atol=0)


def test_a_student_learns_through_the_embeddings(model: Path) -> None:
    teacher_BE = open_live(TeacherConfig(model=str(model))).embed(make_batch(FLIPS["none"]))
    student_BE = torch.ones_like(teacher_BE, requires_grad=True)
    (student_BE * teacher_BE).sum().backward()  # keeps the teacher's embeddings for the backward pass
    assert student_BE.grad is not None and torch.equal(student_BE.grad, teacher_BE)


def test_a_teacher_in_onnx_may_have_its_prelu_rewritten_and_is_the_same_teacher(tmp_path: Path) -> None:
    path = str(write_prelu_network(tmp_path / "m.onnx", size=SIZE))
    plain, rewritten = (open_live(TeacherConfig(model=path, rewrite_prelu=way)) for way in (False, True))
    found = [teacher.embed(make_batch(FLIPS["some"])) for teacher in (plain, rewritten)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert rewritten._embedder.prelu_rewritten  # type: ignore[union-attr]
    assert plain.fingerprint == rewritten.fingerprint


def broken(batch: Batch) -> Batch:
    """A batch whose third image alone is black, for `spoil`."""
    batch.images.clamp_(min=1)[2] = 0
    return batch


def spoil(teacher: LiveTeacher) -> None:
    """Makes the embedding of a black image infinite."""
    module = teacher._embedder._module  # type: ignore[union-attr]
    module.register_forward_hook(
        lambda _, inputs, output: torch.where((inputs[0].amax(dim=(1, 2, 3)) < -1.5)[:, None], torch.inf, output)
    )


def test_an_embedding_that_is_not_finite_names_the_image(model: Path) -> None:
    teacher = open_live(TeacherConfig(model=str(model)))
    spoil(teacher)
    image = int(PositionSampler(FullShuffle(len(DATASET), 3), 1).indices_at(np.array([102]))[0])
    with pytest.raises(ModelError, match=f"1 of 21 embeddings is not finite.*{DATASET.describe(image)}"):
        teacher.embed(broken(make_batch(FLIPS["none"])))


@needs_gpu
def test_on_a_gpu_the_step_does_not_wait_for_the_teacher(model: Path) -> None:
    device = torch.device("cuda")
    teacher = open_live(TeacherConfig(model=str(model)), device=device)
    batch = make_batch(FLIPS["some"])
    expected = open_live(TeacherConfig(model=str(model))).embed(batch)
    sent = batch._replace(on_device=(batch.images.to(device), batch.flip.to(device)))
    teacher.embed(sent)  # fills the caches of constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = teacher.embed(sent)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@needs_gpu
def test_on_a_gpu_an_embedding_that_is_not_finite_is_told_when_asked_or_with_the_next_batch(model: Path) -> None:
    teacher = open_live(TeacherConfig(model=str(model)), device=torch.device("cuda"))
    spoil(teacher)
    teacher.embed(broken(make_batch(FLIPS["none"])))
    with pytest.raises(ModelError, match="1 of 21 embeddings is not finite"):
        teacher.check_finite()
    teacher.embed(broken(make_batch(FLIPS["none"])))
    with pytest.raises(ModelError, match="1 of 21 embeddings is not finite"):
        teacher.embed(make_batch(FLIPS["none"]))
