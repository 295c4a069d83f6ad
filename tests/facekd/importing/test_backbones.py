"""Backbones of other trainers: their names, shapes and meaning arrive in our modules, and nothing else is taken."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from facekd.backbones.building import build_backbone
from facekd.errors import ModelError
from facekd.importing.backbones import import_backbone
from facekd.importing.networks import recognize_backbone
from tests.facekd.importing.written_weights import (
    ADAFACE_UNITS,
    IRESNET_UNITS,
    MBF_LARGE,
    embed_by_names_adaface,
    embed_by_names_iresnet,
    embed_by_names_mbf,
    fill,
    save,
    small_adaface,
    small_iresnet,
    state_dict_of_adaface,
    state_dict_of_iresnet,
    state_dict_of_mbf,
    state_dict_of_vit,
)

VIT = {"vit_t": 256, "vit_s": 512}
MBF = {"mobilefacenet_0.45g": {}, "mobilefacenet": {"scale": 1}, "mobilefacenet_large": MBF_LARGE}


ALL = {
    **{name: state_dict_of_iresnet(units) for name, units in IRESNET_UNITS.items()},
    **{name: state_dict_of_mbf(**sizes) for name, sizes in MBF.items()},
    **{name: state_dict_of_vit(channels) for name, channels in VIT.items()},
}


@pytest.mark.parametrize(("name", "expected"), ALL.items())
def test_names_and_shapes_are_theirs_for_every_published_network(name, expected):
    with torch.device("meta"):
        ours = build_backbone(name).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == expected


@pytest.mark.parametrize(
    ("name", "shapes"),
    [*ALL.items()] + [(name, state_dict_of_adaface(units)) for name, units in ADAFACE_UNITS.items()],
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
    backbone = import_backbone(save(tmp_path / "model.pt", wrap(state))).backbone
    assert (backbone.name, backbone.embedding_size, backbone.image_size, backbone.width) == ("iresnet18", 16, 32, 0.125)
    images = torch.randn(2, 3, 32, 32)
    expected = embed_by_names_iresnet(state, IRESNET_UNITS["iresnet18"], images)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}


def test_prefixes_by_the_hundred_thousand_are_no_wrappers(tmp_path):
    """Each that is taken off copies the rest of the name."""
    path = save(tmp_path / "model.pt", {"module." * 200_000 + "weight": torch.zeros(1)})
    started = time.process_time()
    with pytest.raises(ModelError):
        import_backbone(path)
    assert time.process_time() - started < 1


def test_the_large_mobilefacenet_means_what_it_meant(tmp_path):
    state = fill(state_dict_of_mbf(16, 32, **MBF_LARGE))
    found = import_backbone(save(tmp_path / "model.pt", state))
    assert (found.backbone.name, found.framework, found.color) == (
        "mobilefacenet_large",
        "insightface arcface_torch",
        "rgb",
    )
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.backbone(images), embed_by_names_mbf(state, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "described", "given", "color", "color_by"),
    [
        ("", None, None, "bgr", ""),
        ("", None, "rgb", "rgb", "--color"),
        ("model.", "color_space: RGB", None, "bgr", ""),  # a file beside it is CVLface's custom alone
        ("net.", None, None, "rgb", ""),
        ("model.net.", "color_space: BGR", None, "bgr", "model.yaml"),
        ("model.net.", "color_space: 3", None, "rgb", ""),
    ],
)
def test_a_network_of_adaface_gives_the_same_embeddings_for_rgb(tmp_path, prefix, described, given, color, color_by):
    state = small_adaface()
    source = tmp_path / "model.safetensors"
    safetensors.torch.save_file({prefix + name: value for name, value in state.items()}, source)
    if described:
        source.with_suffix(".yaml").write_text(described)
    found = import_backbone(source, color=given)
    assert (found.backbone.name, found.framework) == ("ir_18", "CVLface" if "net." in prefix else "AdaFace")
    assert (found.color, found.color_by) == (color, color_by)
    images = torch.randn(2, 3, 32, 32)
    expected = embed_by_names_adaface(state, ADAFACE_UNITS["ir_18"], images.flip(1) if color == "bgr" else images)
    with torch.no_grad():
        torch.testing.assert_close(found.backbone(images), expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_is_not_recognised_is_taken_by_its_name(tmp_path):
    torch.manual_seed(0)
    network = build_backbone("resnet20", embedding_size=64, image_size=112)
    source = save(tmp_path / "resnet.pth", network.state_dict())
    assert "which facekd does not recognise; it knows iresnet18, " in refusal(source)
    found = import_backbone(source, "resnet20")
    assert (found.framework, found.color, found.color_by) == ("unknown", "rgb", "")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.backbone.state_dict().items())


def test_a_misfit_is_told_by_the_names_in_the_file(tmp_path):
    state = small_adaface()
    del state["body.2.shortcut_layer.1.bias"]
    state["output_layer.4.weight"] = torch.ones(16)
    message = refusal(save(tmp_path / "cut.pth", state))
    assert "does not fit ir_18, it looks like ir_18 (16-d, 32 pixels, width 0.125)" in message
    assert "tensors 1 missing (body.2.shortcut_layer.1.bias), 1 unexpected (output_layer.4.weight)" in message
    message = refusal(tmp_path / "cut.pth", "iresnet18")
    assert "missing (conv1.weight, " in message and "try --name ir_18" in message


def test_a_vision_transformer_is_loaded_by_its_names(tmp_path):
    state = fill(state_dict_of_vit(channels=32, embedding_size=16))
    backbone = import_backbone(save(tmp_path / "model.pt", {f"module.{k}": v for k, v in state.items()})).backbone
    assert (backbone.name, backbone.width, backbone.image_size) == ("vit_t", 0.125, 112)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


def test_half_precision_files_become_float32(tmp_path):
    state = small_iresnet()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    backbone = import_backbone(save(tmp_path / "half.pth", halves)).backbone
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    assert torch.equal(backbone.state_dict()["fc.weight"], state["fc.weight"].half().float())


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
    squeezed = small_adaface() | {"body.0.res_layer.se_block.fc1.weight": torch.zeros(1, 8, 1, 1)}
    assert "an IR-SE network (with squeeze and excitation) of AdaFace" in refusal(save(tmp_path / "se.pth", squeezed))
    vit = {k: torch.zeros(s) for k, s in state_dict_of_vit(8, blocks=24, patches=4).items()}
    assert "a vision transformer with 24 blocks of 8 channels and 4 patches of 9" in refusal(
        save(tmp_path / "vit.pt", vit)
    )
    deep = small_adaface() | {"body.0.res_layer.7.weight": torch.zeros(8, 2, 1, 1)}
    assert "an IR network of bottleneck units of AdaFace" in refusal(save(tmp_path / "ir152.pth", deep))


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


def test_an_unknown_name_is_refused_before_reading(tmp_path):
    with pytest.raises(ModelError, match="did you mean 'iresnet50'"):
        import_backbone(tmp_path / "absent.pth", "iresnet5")
