"""`facekd import-config`: other trainers' configurations become ones of `facekd train`, and no code of theirs runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.commands.config_files import parse_config
from facekd.errors import ConfigError, run_verb
from facekd.importing.adaface_command import read_command, translate_adaface
from facekd.importing.arcface_config import NETWORKS, translate_arcface
from facekd.importing.import_config import main
from facekd.importing.python_config import read_python_config
from facekd.training.config import TrainConfig
from facekd.training.schedule import learning_rate

# As arcface_torch's are written: attributes of an easydict, some computed from others.
ARCFACE = '''"""One."""
from easydict import EasyDict as edict

config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 512
config.sample_rate = 0.3
config.interclass_filtering_threshold = 0.4
config.fp16 = True
config.weight_decay = 5e-4
config.batch_size = 128
config.lr = 0.1
config.dali = True

config.rec = "/train_tmp/$WebFace12M"
config.num_classes = 30 * 1000
config.num_image = 12720066
config.num_epoch = 20
config.warmup_epoch = config.num_epoch // 10
config.val_targets = ["lfw", "agedb_30"]
config.sub_centers = 3
'''
BASE = """from easydict import EasyDict as edict
config = edict()
config.verbose = 500
config.momentum = 0.9
config.wandb_key = "secret"
config.own_key = [1, 2]
"""
VALUES = {"rec": "/data", "num_image": 100_000, "num_epoch": 10}
ADAFACE = """#!/bin/bash
# the paper's; python main.py --arch ir_101 is larger
CUDA_VISIBLE_DEVICES=0,1 python main.py \\
    --data_root /data \\
    --train_data_path faces_emore --use_mxrecord \\
    --prefix ir50 --gpus 2 --use_16bit --arch ir_50 \\
    --batch_size 512 --epochs 26 --lr_milestones 12,20,24 --lr 0.1 \\
    --head adaface --m 0.4 --h 0.333 \\
    --low_res_augmentation_prob 0.2 --crop_augmentation_prob=0.2 --own_option 3
echo it's done
"""


def imported(tmp_path: Path, name: str, text: str, *words: str) -> TrainConfig:
    """The config that `facekd train` reads."""
    source, output = tmp_path / name, tmp_path / "run.yaml"
    source.write_text(text)
    assert run_verb(lambda: main([str(source), *words, "--output", str(output)])) == 0
    return parse_config(TrainConfig, ["--config", str(output)], "facekd train", "")


def test_a_config_of_arcface_torch_trains_alike(tmp_path, capsys):
    (tmp_path / "base.py").write_text(BASE)
    config = imported(tmp_path, "wf12m_16gpus.py", ARCFACE)
    batch, per_epoch = 2048, 12_720_066 // 2048 * 2048
    assert (config.backbone.name, config.backbone.embedding_size) == ("iresnet50", 512)
    assert (config.data.train, config.output) == ("/train_tmp/$WebFace12M", "runs/wf12m_16gpus")
    assert config.validation.packs == ("/train_tmp/$WebFace12M/lfw.bin", "/train_tmp/$WebFace12M/agedb_30.bin")
    head = config.head
    assert (head.margin, head.margin_value, head.scale, head.filter_above) == ("cosface", 0.4, 64, 0.4)
    assert (head.sharded, head.sample_rate) == (True, 0.3)
    assert (config.global_batch_size, config.batch_size_per_rank) == (batch, 128)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
    assert optimizer.decay_norm_and_bias and config.augmentation.flip
    assert (config.precision, config.clip_norm, config.seed) == ("fp16", 5, 2048)
    assert (config.images, config.schedule.warmup_images) == (20 * per_epoch, 2 * per_epoch)
    assert (config.validation.every_images, config.checkpoint.every_images) == (500 * batch, per_epoch)

    # The rate of a step in the middle, by their formula: lr (1 - (step - warm-up steps) / (steps - warm-up steps)).
    step, warmup, steps = 70_000, 2 * per_epoch // batch, 20 * per_epoch // batch
    expected = 0.1 * (1 - (step - warmup) / (steps - warmup))
    assert learning_rate(config.schedule, step * batch, config.images) == pytest.approx(expected)

    # What is not the same is printed and stands in the file.
    said, text = capsys.readouterr().out, (tmp_path / "run.yaml").read_text()
    for where in (said, " ".join(line.strip("# ") for line in text.splitlines())):
        assert "the rate falls in a straight line" in where and "classes that are not drawn for a step" in where
        assert "config.sub_centers: not known (3)" in where and "config.own_key: not known ([1, 2])" in where
        assert "config.dali: facekd decodes on the CPU" in where
    assert "secret" not in said + text
    assert "128 on each of 16 GPUs (by the name of the file; --gpus says otherwise)" in text


def test_a_command_of_adafaces_trainer_trains_alike(tmp_path, capsys):
    config = imported(tmp_path, "run_ir50.sh", ADAFACE)
    assert (config.backbone.name, config.backbone.dropout, config.output) == ("ir_50", 0.4, "runs/ir50")
    head = config.head
    assert (head.margin, head.margin_value, head.h, head.norm_momentum) == ("adaface", 0.4, 0.333, 0.01)
    assert (config.global_batch_size, config.batch_size_per_rank, config.epochs) == (512, 256, 26)
    assert (config.data.train, config.validation.packs[0]) == ("/data/faces_emore", "/data/faces_emore/agedb_30.bin")
    augmentation = config.augmentation
    assert (augmentation.crop, augmentation.low_resolution, augmentation.color_jitter) == (0.2, 0.2, 0)
    optimizer = config.optimizer
    assert (optimizer.weight_decay, optimizer.decay_norm_and_bias, config.clip_norm) == (5e-4, False, 0)
    rates = [learning_rate(config.schedule, epoch * 100, 2600) for epoch in (0, 11, 12, 19, 20, 24)]
    assert rates == pytest.approx([0.1, 0.1, 1e-2, 1e-2, 1e-3, 1e-4])
    said = capsys.readouterr().out
    assert "--own_option: not known" in said and "images are RGB here and BGR there" in said


def test_a_command_line_is_taken_as_it_is(tmp_path):
    output = tmp_path / "run.yaml"
    command = "python main.py --arch ir_18 --m 0.35 --gpus 1 --num_workers 3"
    assert main([command, "--data", "/a # b\n: {c}", "--output", str(output)]) == 0
    config = parse_config(TrainConfig, [str(output)], "facekd train", "")
    # Without --h, AdaFace's margin is the same for all images.
    assert (config.backbone.name, config.head.margin, config.head.margin_value) == ("ir_18", "cosface", 0.35)
    assert (config.data.train, config.data.workers, config.seed) == ("/a # b\n: {c}", 3, 42)


def test_a_config_of_2021_has_steps_and_a_rate_for_512_images():
    values = {**VALUES, "loss": "arcface", "decay_epoch": [4, 8], "warmup_epoch": -1}
    found = translate_arcface(values, Path("ms1mv3_r50.py"), gpus=4).values
    assert (found["head.margin"], found["head.margin_value"]) == ("arcface", 0.5)
    assert "head.gradient" not in found and translate_arcface(VALUES, Path("a.py")).values["head.gradient"]
    assert (found["schedule.name"], found["schedule.lr"]) == ("step", pytest.approx(0.1 * 512 / 512))
    assert found["schedule.milestones"] == [400_000 // 512 * 512, 800_000 // 512 * 512]
    assert "schedule.warmup_images" not in found
    old = {"loss": "cosface", "decay_epoch": [4]}
    found = translate_arcface(VALUES, Path("a.py"), base=old).values
    assert (found["head.margin"], found["schedule.name"]) == ("cosface", "step")
    found = translate_arcface({**VALUES, "loss": "cosface"}, Path("a.py")).values
    assert (found["head.margin_value"], found["schedule.name"], found["schedule.power"]) == (0.4, "polynomial", 2)


def test_accumulated_gradients_are_a_mean_here_and_a_sum_there():
    values = {**VALUES, "gradient_acc": 4, "batch_size": 32, "lr": 0.1, "weight_decay": 4e-4}
    found = translate_arcface(values, Path("one_gpu.py")).values
    assert (found["global_batch_size"], found["batch_size_per_rank"]) == (128, 32)
    assert (found["schedule.lr"], found["clip_norm"]) == (pytest.approx(0.4), 1.25)
    assert found["optimizer.weight_decay"] == pytest.approx(1e-4)
    found = translate_arcface({**values, "optimizer": "adamw"}, Path("one_gpu.py")).values
    assert (found["schedule.lr"], found["optimizer.weight_decay"]) == (pytest.approx(0.1), 4e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_of_theirs_is_one_of_ours(network):
    from facekd.backbones.building import check_backbone

    values = translate_arcface({**VALUES, "network": network}, Path("a.py")).values
    backbone = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("backbone.")}
    check_backbone(**{"image_size": 112, "width": 1.0, "dropout": 0.0} | backbone)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "vit_h"}, r"config\.network is 'vit_h': expected one that facekd has: r18, r34, "),
        ({"margin_list": [1.0, 0.5]}, r"config\.margin_list is \[1\.0, 0\.5\]: expected 3 numbers"),
        ({"margin_list": [1.2, 0.5, 0.0]}, "their loss takes no others"),
        ({"lr": "0.1"}, r"config\.lr is '0\.1': expected a number from"),
        ({"batch_size": 12.5}, r"config\.batch_size is 12\.5: expected a whole number"),
        ({"fp16": 1}, r"config\.fp16 is 1: expected True or False"),
        ({"optimizer": "lamb"}, "expected one of sgd, adamw"),
        ({"num_image": 100}, r"config\.num_image is 100: expected at least the 1,024 images of a batch"),
        ({"num_image": "forget"}, r"config\.num_image is 'forget': expected a number"),
        ({"rec": None}, r"config\.rec is not set: give the training data by --data"),
        ({"val_targets": "lfw"}, r"config\.val_targets is 'lfw': expected a list of names"),
    ],
)
def test_values_that_are_none_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        translate_arcface({**VALUES, **values}, Path("a.py"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os", "line 3: `import os` is code, which is not run"),
        ("config.lr = float(open('x').read())", "line 3: `float(open('x').read())` is code"),
        ("config.lr = 2 ** 10 ** 10", "is code"),
        ("config.lr = [1] * 1000000000", "is code"),
        ("config.lr = 'a' * 1000000000", "is code"),
        ("config.lr = 1e15 * 1e15", "gives 1e+30, which is no number"),
        ("config.decay_epoch = [1e308]", "line 3: has a number beyond 2^64"),
        ("config.lr = 1 + " + "9" * 400, "line 3: has a number beyond 2^64"),
        ("config.lr = " + "-" * 600 + "1", "cannot be read as a configuration (RecursionError"),
        ("config.lr = 1" + " + 1" * 900, "cannot be read as a configuration (RecursionError"),
        ("config.lr = 1 // 0", "line 3: cannot be computed"),
        ("config.lr = config.absent", "line 3: `config.absent` is code"),
        ("config.lr = f'{1}'", "is code"),
        ("config.lr = other.lr", "is code"),
        ("for _ in [1]:\n    config.lr = 1", "line 3: `for _ in [1]:\\n    config.lr = 1` is code"),
        ("if open('x'):\n    config.lr = 1", "line 3: `open('x')` is code"),
        ("config.lr: float = 1", "is code"),
        ("config = edict(**{'a': 1})", "is code"),
        ("config = None", "is code"),
        ("config.lr = ", "cannot be read as a Python file (SyntaxError"),
        ("config.lr = " + "-" * 50_000 + "1", "cannot be read as a Python file"),
        ("config.lr = " + "9" * 5000, "cannot be read as a Python file"),
        ("x" * 70_000, "has 70,0"),
    ],
)
def test_a_file_with_code_is_refused_and_not_run(tmp_path, code, message):
    path = tmp_path / "evil.py"
    path.write_text(f"from easydict import EasyDict as edict\nconfig = edict()\n{code}\n")
    with pytest.raises(ConfigError) as caught:
        read_python_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_values_that_stand_by_themselves_are_read(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("""config = dict(a=1, b={'c': (1, -2.5)})
config["d"] = config.a + 3 * 2 - 1
if config.d == 7:
    config.e = [4, ]
elif config.d == 6:
    config.e = "six"
else:
    config.e = None
""")
    assert read_python_config(path) == {"a": 1, "b": {"c": [1, -2.5]}, "d": 6, "e": "six"}
    path.write_text("from easydict import EasyDict as edict\n")
    with pytest.raises(ConfigError, match=r"sets no value, as `config\.lr = 0\.1` would"):
        read_python_config(path)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python main.py --arch", "--arch has no value"),
        ("python main.py --lr fast", "--lr is 'fast': expected a number"),
        ("python main.py ir_50 --lr 1", "'ir_50' is no option"),
        ("python main.py --lr 1; python main.py --lr 2", "has 2 calls of main.py"),
        ("echo hello", "has no options of a training"),
        ("python main.py --arch 'ir_50", "is no command line"),
        ("python main.py --arch ir_se_50", "facekd does not have 'ir_se_50'; it has ir_18"),
        ("python main.py --lr_milestones 8,x", "--lr_milestones is '8,x': expected epochs"),
        ("python main.py --gpus 8 --batch_size 4", "--batch_size is 4: expected at least one image for each of 8"),
        (
            f"python main.py --batch_size {'1' * 400}",
            "more characters) ... 11111111111111111111111111111': no computer has",
        ),
        ("python main.py --lr nan", "--lr is nan: expected a number"),
        ("python main.py --head magface", "expected one of adaface, arcface, cosface"),
    ],
)
def test_a_command_that_is_none_is_refused(command, message):
    with pytest.raises(ConfigError) as caught:
        translate_adaface(read_command(command, "run.sh"), "run.sh")
    assert message in str(caught.value)


def test_a_command_line_may_be_longer_than_the_name_of_a_file(tmp_path, capsys):
    command = f"python main.py --arch ir_50 --head adaface --prefix {'a' * 300}"
    assert run_verb(lambda: main([command, "--output", str(tmp_path / "a.yaml")])) == 0
    assert parse_config(TrainConfig, [str(tmp_path / "a.yaml")], "facekd train", "").backbone.name == "ir_50"


def test_what_facekd_cannot_train_leaves_no_file(tmp_path, capsys):
    source, output = tmp_path / "a.py", tmp_path / "a.yaml"
    source.write_text(ARCFACE.replace("(1.0, 0.0, 0.4)", "(1.0, 0.0, 7.5)"))
    assert run_verb(lambda: main([str(source), "--output", str(output)])) == 2
    said = capsys.readouterr().err
    assert "a.py: facekd cannot train so: head.margin_value = 7.5 is outside" in said and said.count("\n") == 1
    assert not output.exists() and run_verb(lambda: main([str(source), "--output", str(source)])) == 2
    assert run_verb(lambda: main([str(tmp_path / "absent.sh"), "--output", str(output)])) == 2
    assert "absent.sh" in capsys.readouterr().err
