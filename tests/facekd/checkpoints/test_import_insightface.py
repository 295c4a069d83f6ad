"""`facekd import`: InsightFace's names, shapes and meaning, restated here naively, arrive in our modules.

`state_dict_of_*` lists names and shapes the way arcface_torch's classes produce them; `embed_by_names_*` computes
the embedding from such a dict with functional calls alone. Neither uses facekd's modules.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.import_insightface import import_backbone, main, recognize_backbone
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.shared_head import load_shared_head
from facekd.data.datasets import SyntheticDataset, open_dataset
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, ModelError, run_verb
from facekd.training.distill import main as distill
from facekd.training.logbook import read_log

Shapes = dict[str, tuple[int, ...]]

IRESNET_UNITS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}


def bn(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def state_dict_of_iresnet(units: tuple[int, ...], embedding_size=512, image_size=112, scale=1.0) -> Shapes:
    stages = [int(c * scale) for c in (64, 128, 256, 512)]
    shapes: Shapes = {"conv1.weight": (stages[0], 3, 3, 3)} | bn("bn1", stages[0]) | {"prelu.weight": (stages[0],)}
    inputs = stages[0]
    for stage, (outputs, count) in enumerate(zip(stages, units, strict=True), start=1):
        for unit in range(count):
            at = f"layer{stage}.{unit}"
            shapes |= bn(f"{at}.bn1", inputs) | {f"{at}.conv1.weight": (outputs, inputs, 3, 3)}
            shapes |= bn(f"{at}.bn2", outputs) | {f"{at}.prelu.weight": (outputs,)}
            shapes |= {f"{at}.conv2.weight": (outputs, outputs, 3, 3)} | bn(f"{at}.bn3", outputs)
            if unit == 0:
                shapes |= {f"{at}.downsample.0.weight": (outputs, inputs, 1, 1)} | bn(f"{at}.downsample.1", outputs)
            inputs = outputs
    shapes |= bn("bn2", inputs)
    shapes |= {"fc.weight": (embedding_size, inputs * (image_size // 16) ** 2), "fc.bias": (embedding_size,)}
    return shapes | bn("features", embedding_size)


def block(name: str, outputs: int, inputs_per_group: int, kernel: int, prelu: bool) -> Shapes:
    shapes: Shapes = {f"{name}.layers.0.weight": (outputs, inputs_per_group, kernel, kernel)}
    shapes |= bn(f"{name}.layers.1", outputs)
    return shapes | ({f"{name}.layers.2.weight": (outputs,)} if prelu else {})


def unit(name: str, inputs: int, outputs: int, inner: int) -> Shapes:
    shapes = block(f"{name}.layers.0", inner, inputs, 1, True) | block(f"{name}.layers.1", inner, 1, 3, True)
    return shapes | block(f"{name}.layers.2", outputs, inner, 1, False)


def state_dict_of_mbf(embedding_size=512, image_size=112, blocks=(4, 6, 2), scale=2) -> Shapes:
    narrow, wide = 64 * scale, 128 * scale
    shapes = block("layers.0", narrow, 3, 3, True) | block("layers.1", narrow, narrow // 64, 3, True)
    shapes |= unit("layers.2", narrow, narrow, 128)
    for i in range(blocks[0]):
        shapes |= unit(f"layers.3.layers.{i}", narrow, narrow, 128)
    shapes |= unit("layers.4", narrow, wide, 256)
    for i in range(blocks[1]):
        shapes |= unit(f"layers.5.layers.{i}", wide, wide, 256)
    shapes |= unit("layers.6", wide, wide, 512)
    for i in range(blocks[2]):
        shapes |= unit(f"layers.7.layers.{i}", wide, wide, 256)
    shapes |= block("conv_sep", 512, wide, 1, True)
    shapes |= block("features.layers.0", 512, 1, image_size // 16, False)
    return shapes | {"features.layers.2.weight": (embedding_size, 512)} | bn("features.layers.3", embedding_size)


def fill(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Values of the size that trained weights have, so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif len(shape) > 1:
            state[name] = noise * (2 / noise[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 1 + noise.square()
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * noise
        elif f"{name.removesuffix('weight')}running_var" in shapes:
            state[name] = 1 + 0.1 * noise  # a normalisation's gain
        else:
            state[name] = 0.25 + 0.1 * noise  # a PReLU's slopes
    return state


def normalise(state, name: str, x: torch.Tensor) -> torch.Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def embed_by_names_iresnet(state, units, images: torch.Tensor) -> torch.Tensor:
    x = F.prelu(normalise(state, "bn1", F.conv2d(images, state["conv1.weight"], padding=1)), state["prelu.weight"])
    for stage, count in enumerate(units, start=1):
        for index in range(count):
            at, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            y = F.conv2d(normalise(state, f"{at}.bn1", x), state[f"{at}.conv1.weight"], padding=1)
            y = F.prelu(normalise(state, f"{at}.bn2", y), state[f"{at}.prelu.weight"])
            y = normalise(state, f"{at}.bn3", F.conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1))
            if index == 0:
                x = F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=2)
                x = normalise(state, f"{at}.downsample.1", x)
            x = x + y
    x = normalise(state, "bn2", x).flatten(1)
    return normalise(state, "features", F.linear(x, state["fc.weight"], state["fc.bias"]))


def embed_by_names_mbf(state, images: torch.Tensor) -> torch.Tensor:
    def conv_block(name, x, stride=1, groups=1, padding=0):
        x = F.conv2d(x, state[f"{name}.layers.0.weight"], stride=stride, padding=padding, groups=groups)
        x = normalise(state, f"{name}.layers.1", x)
        slopes = state.get(f"{name}.layers.2.weight")
        return x if slopes is None else F.prelu(x, slopes)

    def inverted(name, x, stride):
        y = conv_block(f"{name}.layers.0", x)
        y = conv_block(f"{name}.layers.1", y, stride=stride, groups=y.shape[1], padding=1)
        return conv_block(f"{name}.layers.2", y)

    x = conv_block("layers.0", images, stride=2, padding=1)
    x = conv_block("layers.1", x, groups=64, padding=1)
    for strided, stack, count in ((2, 3, 4), (4, 5, 6), (6, 7, 2)):
        x = inverted(f"layers.{strided}", x, 2)
        for index in range(count):
            x = x + inverted(f"layers.{stack}.layers.{index}", x, 1)
    x = conv_block("conv_sep", x)
    x = conv_block("features.layers.0", x, groups=512).flatten(1)
    return normalise(state, "features.layers.3", F.linear(x, state["features.layers.2.weight"]))


def save(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def small_iresnet(**sizes) -> dict[str, torch.Tensor]:
    """An r18 that takes little time: an eighth of the channels, 32 pixels."""
    return fill(
        state_dict_of_iresnet(
            IRESNET_UNITS["iresnet18"], **({"embedding_size": 16, "image_size": 32, "scale": 0.125} | sizes)
        )
    )


@pytest.mark.parametrize("name", [*IRESNET_UNITS, "mobilefacenet_0.45g"])
def test_names_and_shapes_are_theirs_for_every_published_network(name):
    expected = state_dict_of_mbf() if name.startswith("mobile") else state_dict_of_iresnet(IRESNET_UNITS[name])
    with torch.device("meta"):
        ours = build_backbone(name).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == expected


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet_0.45g"])
def test_imported_weights_mean_what_they_meant(tmp_path, capsys, name):
    if name == "iresnet18":
        state = fill(state_dict_of_iresnet(IRESNET_UNITS[name], image_size=64, scale=0.25))
    else:
        state = fill(state_dict_of_mbf(image_size=64))
    source, output = save(tmp_path / "backbone.pth", state), tmp_path / "teacher.pt"
    assert run_verb(lambda: main([str(source), "--name", name, "--output", str(output)])) == 0
    printed = capsys.readouterr().out
    assert name in printed
    assert "embedding of 512" in printed

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = (
        embed_by_names_iresnet(state, IRESNET_UNITS[name], images)
        if name == "iresnet18"
        else embed_by_names_mbf(state, images)
    )
    assert F.cosine_similarity(expected[:1], expected[1:]) < 0.999  # the images are told apart at all
    backbone, preprocessing = load_backbone(output)
    assert not backbone.training
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert tuple(preprocessing.mean) == tuple(preprocessing.std) == (127.5, 127.5, 127.5)
    assert preprocessing.color == "rgb"
    assert preprocessing.image_size == 64


@pytest.mark.parametrize(
    ("name", "shapes"),
    [(name, state_dict_of_iresnet(units)) for name, units in IRESNET_UNITS.items()]
    + [
        ("mobilefacenet_0.45g", state_dict_of_mbf()),
        ("mobilefacenet", state_dict_of_mbf(scale=1)),
    ],
)
def test_networks_are_recognised_by_names_and_shapes(name, shapes):
    found = recognize_backbone({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    assert found is not None
    assert (found.name, found.embedding_size, found.image_size, found.width) == (name, 512, 112, 1.0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        # a training checkpoint of arcface_torch
        lambda state: {"epoch": 3, "global_step": 9, "state_dict_backbone": state, "state_optimizer": {"state": {}}},
        lambda state: {"state_dict": state},
        # files older than the counters of batch normalisation
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    ],
)
def test_wrapped_files_and_other_sizes_import_without_a_name(tmp_path, wrap):
    state = small_iresnet()
    backbone = import_backbone(save(tmp_path / "model.pt", wrap(state)))
    assert (backbone.name, backbone.embedding_size, backbone.image_size, backbone.width) == ("iresnet18", 16, 32, 0.125)
    images = torch.randn(2, 3, 32, 32)
    expected = embed_by_names_iresnet(state, IRESNET_UNITS["iresnet18"], images)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}


def test_half_precision_files_become_float32(tmp_path):
    state = small_iresnet()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    backbone = import_backbone(save(tmp_path / "half.pth", halves))
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.state_dict()["fc.weight"], state["fc.weight"].half().float())


def test_the_checkpoint_records_what_and_from_where(tmp_path):
    import hashlib

    source, output = save(tmp_path / "backbone.pth", small_iresnet()), tmp_path / "out" / "teacher.pt"
    assert main([str(source), "--output", str(output)]) == 0
    content = load_checkpoint(output)
    assert content["config"]["backbone"] == {
        "name": "iresnet18",
        "embedding_size": 16,
        "image_size": 32,
        "width": 0.125,
        "dropout": 0.0,
    }
    assert content["source"]["file"] == "backbone.pth"
    assert content["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert [path.name for path in output.parent.iterdir()] == ["teacher.pt"]


def refusal(path: Path, name: str | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        import_backbone(path, name)
    message = str(caught.value)
    assert str(path) in message
    return message


def test_another_depth_than_asked_names_what_it_is_and_the_first_differences(tmp_path):
    path = save(tmp_path / "backbone.pth", small_iresnet())
    message = refusal(path, "iresnet34")
    assert "does not fit iresnet34" in message
    assert "looks like iresnet18 (16-d, 32 pixels, width 0.125)" in message
    assert "--name iresnet18" in message
    assert "missing (layer1.2.bn1.weight, layer1.2.bn1.bias, layer1.2.bn1.running_mean, " in message
    assert "unexpected (layers.0.layers.0.weight, " in refusal(
        save(tmp_path / "mbf.pth", fill(state_dict_of_mbf())), "iresnet18"
    )


def test_depths_that_facekd_lacks_are_described(tmp_path):
    units = fill(state_dict_of_iresnet((1, 2, 1, 1), embedding_size=16, image_size=32, scale=0.125))
    message = refusal(save(tmp_path / "r14.pth", units))
    assert "looks like an IR-ResNet with (1, 2, 1, 1) units" in message
    assert "iresnet18" in message
    large = {k: torch.zeros(s) for k, s in state_dict_of_mbf(blocks=(8, 12, 4)).items()}
    assert "MobileFaceNet with (8, 12, 4) units" in refusal(save(tmp_path / "large.pth", large))


def test_a_strange_network_shows_its_names(tmp_path):
    path = save(tmp_path / "resnet.pth", {"stem.conv.weight": torch.zeros(4, 3, 3, 3), "head.bias": torch.zeros(4)})
    assert "stem.conv.weight, head.bias" in refusal(path)
    message = refusal(path, "iresnet18")
    assert "stem.conv.weight" in message
    assert "missing (conv1.weight, " in message


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path):
    state = small_iresnet()
    del state["layer3.1.bn2.bias"]
    state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    message = refusal(save(tmp_path / "cut.pth", state))
    assert "1 missing (layer3.1.bn2.bias)" in message
    assert "1 of another shape (layer2.0.conv1.weight is (3, 3), expected (16, 8, 3, 3))" in message


def test_shapes_that_cannot_be_are_refused_with_the_file(tmp_path):
    state = small_iresnet(image_size=16)
    assert "image_size" in refusal(save(tmp_path / "tiny.pth", state))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = small_iresnet()
    state["fc.weight"][3, 5] = float("nan")
    assert "fc.weight holds NaN or infinity" in refusal(save(tmp_path / "nan.pth", state))


class Touch:
    """Pickled code: creates a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    assert "code" in refusal(save(tmp_path / "hostile.pth", {"conv1.weight": Touch(trace)}))
    plain_pickle = tmp_path / "plain.pth"
    plain_pickle.write_bytes(pickle.dumps(Touch(trace)))
    refusal(plain_pickle)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Touch(trace)))
    assert trace.exists()  # it would have


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = save(tmp_path / "backbone.pth", small_iresnet()).read_bytes()
    for name, content in {
        "cut.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"<!DOCTYPE html><html>quota exceeded</html>",
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    assert "expected a state dict" in refusal(save(tmp_path / "list.pth", [1, 2]))
    assert "epoch" in refusal(save(tmp_path / "other.pth", {"epoch": 3}))


def test_a_facekd_checkpoint_is_not_imported_twice(tmp_path):
    source, output = save(tmp_path / "backbone.pth", small_iresnet()), tmp_path / "teacher.pt"
    main([str(source), "--output", str(output)])
    assert "already a facekd checkpoint" in refusal(output)


def test_a_failed_import_leaves_the_earlier_output(tmp_path, capsys):
    good, output = save(tmp_path / "good.pth", small_iresnet()), tmp_path / "teacher.pt"
    main([str(good), "--output", str(output)])
    before = output.read_bytes()
    bad = tmp_path / "bad.pth"
    bad.write_bytes(good.read_bytes()[:1000])
    assert run_verb(lambda: main([str(bad), "--output", str(output)])) == 2
    assert "error: " in capsys.readouterr().err
    assert output.read_bytes() == before
    assert run_verb(lambda: main([str(good), "--output", str(good)])) == 2
    assert run_verb(lambda: main([str(tmp_path / "absent.pth"), "--output", str(output)])) == 2
    assert "absent.pth" in capsys.readouterr().err
    load_checkpoint(output)
    with pytest.raises(CheckpointError):
        load_checkpoint(bad)


def write_ranks(folder: Path, weight_CD: torch.Tensor, count: int) -> Path:
    """What the processes of arcface_torch write: each the backbone and its rows; returns the file of the first."""
    folder.mkdir(exist_ok=True)
    backbone = fill(state_dict_of_mbf(16, 32))
    for rank in range(count):
        start = len(weight_CD) // count * rank + min(rank, len(weight_CD) % count)
        stop = start + len(weight_CD) // count + (rank < len(weight_CD) % count)
        rows = weight_CD[start:stop].clone()
        content = {"epoch": 3, "global_step": 500, "state_dict_backbone": backbone}
        content |= {"state_dict_softmax_fc": {"weight": rows}, "state_lr_scheduler": {"last_epoch": 500}}
        content["state_optimizer"] = {"state": {0: {"momentum_buffer": torch.zeros_like(rows)}}, "param_groups": []}
        torch.save(content, folder / f"checkpoint_gpu_{rank}.pt")
    return folder / "checkpoint_gpu_0.pt"


@pytest.mark.parametrize(("count", "rank"), [(1, 0), (3, 0), (3, 2)])
def test_the_classifier_of_all_ranks_is_joined(tmp_path, capsys, count, rank):
    weight = torch.randn(7, 16)
    write_ranks(tmp_path / "run", weight, count)
    assert main([str(tmp_path / "run" / f"checkpoint_gpu_{rank}.pt"), "--output", str(tmp_path / "out.pt")]) == 0
    content = load_checkpoint(tmp_path / "out.pt")
    assert torch.equal(content["head"]["weight"], weight) and content["num_classes"] == 7
    said = capsys.readouterr()
    files = "checkpoint_gpu_0.pt" + (" to checkpoint_gpu_2.pt" if count == 3 else "")
    assert f"classifier of 7 identities, from {files}; to distil through it, import with --data" in said.out
    assert not said.err
    # Whose classes they are was not said.
    with pytest.raises(CheckpointError, match="import the model again with `--data synthetic"):
        load_shared_head(tmp_path / "out.pt", SyntheticDataset(7, 1, 32))


def of_another_step(file: Path) -> None:
    torch.save(torch.load(file) | {"global_step": 900}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"its parts in checkpoint_gpu_1\.pt are missing beside checkpoint_gpu_0\.pt"),
        (of_another_step, r"checkpoint_gpu_1\.pt beside checkpoint_gpu_0\.pt is of another run or step"),
        (lambda file: file.write_bytes(b"half"), r"checkpoint_gpu_1\.pt beside checkpoint_gpu_0\.pt cannot be read"),
        (lambda file: write_ranks(file.parent, torch.ones(2, 16), 2), r"its parts have 1, 1, 2 rows"),
        (lambda file: write_ranks(file.parent, torch.ones(9, 8), 3), r"it takes embeddings of 8, and the .* gives 16"),
        (lambda file: write_ranks(file.parent, torch.ones(0, 16), 3), "state_dict_softmax_fc has no weight"),
        (lambda file: write_ranks(file.parent, torch.full((9, 16), torch.nan), 3), r"it holds NaN"),
    ],
)
def test_a_classifier_that_cannot_be_joined_is_left_out_and_said(tmp_path, capsys, change, message):
    source = write_ranks(tmp_path / "run", torch.randn(7, 16), 3)
    change(source.with_name("checkpoint_gpu_1.pt"))
    assert main([str(source), "--output", str(tmp_path / "out.pt")]) == 0
    assert "head" not in load_checkpoint(tmp_path / "out.pt")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {source}: the classifier is left out, because ")
    assert re.search(message, line)


def fitted_classifier(backbone: Path, faces: Path) -> torch.Tensor:
    """Centres (6, 16) that put every embedding of a network with random weights into its own class."""
    dataset = open_dataset(faces, 32)
    images, labels = dataset.load(np.arange(len(dataset)))
    embedding = F.normalize(torch.from_numpy(open_embedder(str(backbone)).embed(images)))
    weight = torch.nn.Parameter(torch.eye(6, 16))
    optimizer = torch.optim.Adam([weight], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(64 * embedding @ F.normalize(weight).T, torch.from_numpy(labels)).backward()
        optimizer.step()
    return weight.detach()


def test_a_student_learns_through_an_imported_classifier(tmp_path, capsys, tiny_faces, tiny_arguments):
    # Four processes have 2, 2, 1 and 1 of the 6 identities.
    source = write_ranks(tmp_path / "run", torch.ones(6, 16), 4)
    main([str(source), "--output", str(tmp_path / "backbone.pt")])
    weight = fitted_classifier(tmp_path / "backbone.pt", tiny_faces)
    write_ranks(tmp_path / "run", weight, 4)
    capsys.readouterr()
    teacher = tmp_path / "teacher.pt"
    assert main([str(source), "--data", str(tiny_faces), "--output", str(teacher)]) == 0
    said = capsys.readouterr()
    assert "it recognises 42 of 42 images of" in said.out and not said.err
    assert torch.equal(load_shared_head(teacher, open_dataset(tiny_faces, 32)).weight_CD, weight)
    words = [*tiny_arguments, "--images", "36", "--output", str(tmp_path / "student"), "--share", "0.5"]
    assert distill([*words, "--teacher.model", str(teacher), "--loss.kl", "0.5"]) == 0
    assert read_log(tmp_path / "student", "train")[-1]["loss_th_ce"] > 0

    # Labels in another order are seen; data of other identities, and ranks that the data misses, are refused.
    write_ranks(tmp_path / "run", weight.roll(1, 0), 4)
    main([str(source), "--data", str(tiny_faces), "--output", str(teacher)])
    assert re.search(r"warning: .* recognises \d of 42 images; are its labels those", capsys.readouterr().err)
    with pytest.raises(ModelError, match=r"have 2, 2, 1, \.\.\. rows, .* 5 identities of the data\. Leave --data"):
        main([str(source), "--data", "synthetic:5x1", "--output", str(teacher)])
    source.with_name("checkpoint_gpu_3.pt").unlink()
    with pytest.raises(ModelError, match=r"in checkpoint_gpu_3\.pt are missing beside .* the 6 identities of the data"):
        main([str(source), "--data", str(tiny_faces), "--output", str(teacher)])
    torch.save(fill(state_dict_of_mbf(16, 32)), tmp_path / "backbone.pth")
    with pytest.raises(ModelError, match="has no classifier to use with --data"):
        main([str(tmp_path / "backbone.pth"), "--data", str(tiny_faces), "--output", str(teacher)])


def test_an_unknown_name_is_refused_before_reading(tmp_path):
    with pytest.raises(ModelError, match="did you mean 'iresnet50'"):
        import_backbone(tmp_path / "absent.pth", "iresnet5")


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: facekd import" in text
    assert "facekd import ms1mv3_r100/backbone.pth --name iresnet100 --output teacher.pt" in text
