"""Configs as users give them: paths with `~` and variables, files in other encodings, and files that are none."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from facekd.commands.config_files import expand_path, parse_config
from facekd.commands.plain_configs import to_yaml
from facekd.errors import ConfigError, FacekdError
from facekd.experiments.sh_kd import PipelineFile
from facekd.experiments.studies.file import StudyFile
from facekd.training.config import DistillConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", "/data/faces")
    monkeypatch.delenv("ABSENT", raising=False)
    return str(tmp_path / "home")


def parse(*words: str, config_class: type = TrainConfig, prog: str = "facekd train"):
    return parse_config(config_class, [str(word) for word in words], prog, "")


def test_paths_of_a_file_and_of_options_are_expanded(tmp_path: Path, home: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("""
output: ~/runs/$USER_OF_TEST
data:
  train: ${DATA}/ms1mv3
validation:
  packs: [~/lfw.bin, $DATA/agedb.bin, ./~/c$$d.bin]
teacher: {model: "~", cache: ""}
loss: {embedding_l2: 1}
""")
    with pytest.raises(ConfigError, match=r"run.yaml: output is .*variable USER_OF_TEST is not set"):
        parse(file, config_class=DistillConfig, prog="facekd distill")
    with pytest.raises(ConfigError, match=r"^output is '\$ABSENT'"):
        parse(file, "--output", "$ABSENT", config_class=DistillConfig, prog="facekd distill")
    options = ("--output=~/o", "--shared_head", "$DATA/head.pt")
    config = parse(file, *options, config_class=DistillConfig, prog="facekd distill")
    assert (config.output, config.shared_head) == (f"{home}/o", "/data/faces/head.pt")
    assert config.data.train == "/data/faces/ms1mv3"
    assert config.validation.packs == (f"{home}/lfw.bin", "/data/faces/agedb.bin", "./~/c$d.bin")
    assert (config.teacher.model, config.teacher.cache) == (home, "")


def path_keys(config_class: type, prefix: str = "") -> set[str]:
    found = set()
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            found |= path_keys(type(default), f"{prefix}{item.name}.")
        elif item.metadata.get("path"):
            found.add(prefix + item.name)
    return found


def test_every_key_that_holds_a_path_is_one_of_those() -> None:
    trained = {"output", "data.train", "shared_head", "validation.packs", "backbone.weights", "head.weights"}
    assert path_keys(TrainConfig) == trained
    assert path_keys(DistillConfig) == trained | {"teacher.model", "teacher.head", "teacher.cache"}
    assert path_keys(PipelineFile) == {
        *("output", "teacher_from", "student.recipe", "teacher.recipe", "distilled.recipe"),
    }


def test_a_written_config_means_the_same_in_another_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = parse("--output", "~/a$$b", "--data.train", "$DATA/x", "--validation.packs", "[$DATA/p$$q.bin]")
    (tmp_path / "config.yaml").write_text(to_yaml(first))
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.delenv("DATA")
    assert parse(tmp_path / "config.yaml") == first
    assert first.validation.packs == ("/data/faces/p$q.bin",)


def test_a_key_with_nothing_behind_it_is_an_empty_text(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("output: runs/a\nshared_head:\ndata: {train: faces}\nhead: {weights: }\n")
    config = parse_config(TrainConfig, [str(file)], "facekd train", "")
    assert (config.shared_head, config.head.weights) == ("", "")
    file.write_text(to_yaml(config))
    assert parse_config(TrainConfig, [str(file)], "facekd train", "") == config


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("data: {train: a}\ndata.train: b\n", "data.train is there with dots and in its section; keep one of the two"),
        ("data.train: b\ndata: {train: a}\n", "data.train is there with dots and in its section"),
        ("data.image_size: 64\ndata: {train: a}\n", "data.image_size would be lost by the section data behind it"),
    ],
)
def test_no_key_of_a_file_is_lost_silently(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"output: o\n{content}")
    with pytest.raises(ConfigError, match=f"c.yaml: {problem}"):
        parse(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"base\.x\.y is there with dots and in its section"):
        (tmp_path / "s.yaml").write_text("output: o\nbase: {x.y: 1, x: {y: 2}}\n")
        parse(tmp_path / "s.yaml", config_class=StudyFile, prog="facekd study")


def test_keys_with_dots_may_follow_their_section(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: o\ndata: {train: a}\ndata.image_size: 64\n")
    assert (parse(tmp_path / "c.yaml").data.train, parse(tmp_path / "c.yaml").data.image_size) == ("a", 64)


def test_the_configuration_of_a_moved_run_asks_which_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("runs/b/config.yaml")
    (file.parent / "checkpoints").mkdir(parents=True)
    file.write_text("output: runs/a\ndata: {train: d}\n")
    assert parse(file).output == "runs/a"  # a project with a folder of that name, which is no run
    (file.parent / "log.jsonl").touch()
    with pytest.raises(ConfigError, match="belongs to the run in runs/b, and names the output runs/a: was the run mov"):
        parse(file)
    for output in ("runs/b", "runs/c"):
        assert parse(file, "--output", output).output == output
    file.write_text(f"output: {tmp_path}/runs/b/\ndata: {{train: d}}\n")
    assert parse(file).data.train == "d"
    monkeypatch.setattr(Path, "resolve", Path.absolute)  # mounted in two places, neither of which is a link
    (tmp_path / "mounted").symlink_to("runs/b")
    file.write_text("output: mounted\ndata: {train: d}\n")
    assert parse(file).output == "mounted"
    other = file.with_name("mine.yaml")
    other.write_text("output: runs/a\ndata: {train: d}\n")
    assert parse(other).output == "runs/a"


def test_a_user_who_does_not_exist_is_named() -> None:
    assert expand_path("a~b", "key") == "a~b"
    with pytest.raises(
        ConfigError, match=r"key is '~no-such-user/x', and there is no such user; write ./~no-such-user/x"
    ):
        expand_path("~no-such-user/x", "key")


def test_paths_of_studies_and_pipelines_are_expanded(tmp_path: Path, home: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("""
output: ~/study
methods:
  a: {verb: train, recipe: $DATA/a.yaml}
  b: {model: ~/b.onnx}
packs: ["~/a.bin", {pairs: "$DATA/b.bin", names: "~/names.txt"}]
""")
    study = parse(file, config_class=StudyFile, prog="facekd study")
    assert (study.output, study.methods["a"].recipe, study.methods["b"].model) == (
        f"{home}/study", "/data/faces/a.yaml", f"{home}/b.onnx",
    )  # fmt: skip
    assert study.packs[0] == f"{home}/a.bin"
    assert (study.packs[1].pairs, study.packs[1].names) == ("/data/faces/b.bin", f"{home}/names.txt")
    file.write_text("output: ~/p\nstudent: {recipe: $ABSENT/a.yaml}\n")
    with pytest.raises(ConfigError, match=r"study.yaml: student.recipe is .*ABSENT"):
        parse(file, config_class=PipelineFile, prog="facekd pipeline sh-kd")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_any_encoding_that_it_announces(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("# é\noutput: runs/é\ndata: {train: x}\n", encoding=encoding)
    assert parse(file).output == "runs/é"


def test_a_file_after_other_options_is_read_like_one_before_them(tmp_path: Path, home: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "run.yaml").write_text("output: runs/é\ndata: {train: x}\nseed: 2\n", encoding="utf-16")
    config = parse("--epochs", "3", "--seed", "1", "--config", "~/run.yaml", "--config", '{"log_every_images": 5}')
    assert (config.output, config.epochs, config.seed, config.log_every_images) == ("runs/é", 3, 2, 5)
    for name in ("train.rec", "pipe.yaml"):
        (os.mkfifo if name == "pipe.yaml" else Path.touch)(tmp_path / name)
        with pytest.raises(FacekdError, match=f"{name}:? is a (record file|named pipe)"):
            parse("--seed", "1", f"--config={tmp_path / name}")


def test_another_encoding_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("output: a\n# é\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=r"run.yaml: is not UTF-8 at line 2; convert it, such as by `iconv"):
        parse(file)


@pytest.mark.parametrize(
    ("config_class", "prog", "file", "verb"),
    [
        (TrainConfig, "facekd train", "study/generated_faces.yaml", "facekd study"),
        (TrainConfig, "facekd train", "distill/ms1mv3_th_kd.yaml", "facekd distill"),
        (TrainConfig, "facekd train", "distill/ms1mv3_sh_kd_pipeline.yaml", "facekd pipeline sh-kd"),
        (StudyFile, "facekd study", "debug.yaml", "facekd train"),
        (PipelineFile, "facekd pipeline sh-kd", "study/generated_faces.yaml", "facekd study"),
        (PipelineFile, "facekd pipeline sh-kd", "debug.yaml", "facekd train"),
    ],
)
def test_a_config_of_another_verb_is_told(config_class: type, prog: str, file: str, verb: str) -> None:
    with pytest.raises(ConfigError, match=f"is a configuration of `{verb}`, not of `{prog}`"):
        parse(ROOT / "configs" / file, config_class=config_class, prog=prog)


@pytest.mark.parametrize("words", [["FILE"], ["--config", "FILE"], ["--config=FILE"], ["--seed", "1", "FILE"]])
def test_a_python_config_of_arcface_torch_is_told_which_keys_to_write(tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "ms1mv3_r50.py"
    file.write_text('config = edict()\nconfig.rec = "/train"\nconfig.network = "r50"\nconfig.dali = False\n')
    with pytest.raises(ConfigError) as raised:
        parse(*(word.replace("FILE", str(file)) for word in words))
    said = str(raised.value)
    assert said.startswith(f"{file} is Python, and facekd reads YAML")
    assert said.endswith("write data.train for config.rec, backbone.name for config.network")


def test_what_is_no_config_is_told_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "train.rec").touch()
    with pytest.raises(ConfigError, match="is a folder, and a configuration is a YAML file"):
        parse(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"is the folder of a run; its configuration is .*run/config.yaml"):
        parse(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"is a record file: give it as `--data.train .*train.rec`"):
        parse(tmp_path / "train.rec")


def test_an_example_config_is_found_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = parse(ROOT / "configs" / "debug.yaml")
    assert parse("configs/debug.yaml") == parse("--config", "configs/debug.yaml") == example
    assert parse("configs/train/ms1mv3_iresnet50_arcface.yaml").backbone.name == "iresnet50"
    with pytest.raises(ConfigError, match=r"^configs/absent\.yaml: no such .*; examples to start from lie in /.*"):
        parse("configs/absent.yaml")
    # The user's own file of that name goes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "debug.yaml").write_text("output: mine\ndata: {train: mine}\n")
    assert parse("configs/debug.yaml").output == "mine"


def test_a_mistaken_command_leaves_nothing_for_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: mine\ndata: {train: mine}\n")
    expected = parse(tmp_path / "c.yaml")
    for mistake in (("--print_config", "--sed", "1"), ("--print_config", "--seed", "abc"), ("--seed", "5", "--sed")):
        with pytest.raises(ConfigError):
            parse(tmp_path / "c.yaml", *mistake)
        assert parse(tmp_path / "c.yaml") == expected
