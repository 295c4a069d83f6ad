"""Configuration: files and dotted overrides, and errors that name the key to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from facekd.commands.config_files import config_keys, parse_config
from facekd.commands.plain_configs import differences, to_plain, to_yaml
from facekd.errors import ConfigError, FacekdError, ModelError
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.idle_settings import idle_settings

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))


def parse(*arguments: str) -> TrainConfig:
    return parse_config(TrainConfig, list(arguments), "facekd train", "")


def test_later_values_win_and_sections_nest(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("output: a\ndata: {train: d, image_size: 64}\nschedule: {lr: 1e-4}\n")
    config = parse(str(file), "--output", "b", "--data.mean", "[1, 2, 3]")
    assert (config.output, config.data.train, config.data.image_size) == ("b", "d", 64)
    assert config.schedule.lr == 1e-4  # which plain YAML reads as a string
    assert config.data.mean == (1, 2, 3)


def test_yaml_of_a_config_reads_back_as_the_same(tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = tiny_config(validation__packs='["a.bin", "b.bin"]')
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert parse(str(tmp_path / "c.yaml")) == config


def is_of_one_run(path: Path) -> bool:
    """Studies and pipelines have files, and tests, of their own."""
    return path.parent.name != "study" and "pipeline" not in path.stem


@pytest.mark.parametrize("path", [path for path in CONFIGS if is_of_one_run(path)], ids=lambda path: path.name)
def test_every_published_config_parses(path: Path) -> None:
    distils = "\nloss:" in path.read_text()
    parse_config(DistillConfig if distils else TrainConfig, [str(path)], "facekd", "")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_published_config_states_its_claim(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source", "Hardware", "Expect", "Command"):
        assert any(line.startswith(f"# {word}") for line in header), f"{path} does not state its {word}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head.margn", "1"], r"'head\.margn' is not a configuration key; did you mean 'head\.margin'"),
        (
            ["--head.margin", "arcfac"],
            r"head\.margin = 'arcfac': choose one of none, arcface.*; did you mean arcface\?",
        ),
        (["--data.on-bad-record", "skp"], r"data\.on_bad_record"),
        (["--on-bad-record", "skip"], r"did you mean 'data\.on_bad_record'"),
        (["--data.image_size", "abc"], r"data\.image_size"),
        (["--data.image_size", "100"], r"data\.image_size must be a multiple of 16"),
        (["--backbone.name", "mobilefacenets"], "did you mean 'mobilefacenet'"),
        (["--head.margin_value", "28.6"], r"head\.margin_value = 28\.6 is outside .*degrees"),
        (["--precision", "fp16"], "precision fp16 needs a GPU"),
        (["--head.product", "autocast"], r"head\.product = 'autocast' has no effect with precision = 'fp32'"),
        (["--images", "0", "--epochs", "0"], "the run has no length"),
        (["--images", "-5"], "images must not be negative"),
        (["--seed", "-1"], "seed must be from 0"),
        (["--batch_size", "3"], "'batch_size' is not a configuration key; did you mean 'global_batch_size'"),
        (["--lr", "0.1"], r"'lr' is not a configuration key; did you mean 'schedule\.lr'"),
        (["--validation.packs", "a.bin"], r"validation\.packs: expected a list in brackets"),
        (["--global_batch_size", "0"], "global_batch_size must be at least 1"),
        (["--data.std", "[1, 0, 1]"], r"data\.std must be positive"),
        (["--device", "gpu"], "auto, cpu, cuda, cuda:N"),
        (["--data.image_size", "100000"], "data.image_size must be at most 8,192, not 100,000"),
        (["--data.workers", "1000000"], "data.workers must be at most 4,096"),
        (["--backbone.width", "1e9"], "backbone.width must be at most 64"),
        (["--clip_norm", "-1"], "clip_norm must not be negative"),
        (["--validation.packs", '["a/lfw.bin", "b/lfw.bin"]'], r"validation\.packs: .* rename one"),
        (["--checkpoint.keep", "0"], r"checkpoint\.keep must be at least 1"),
        (["--schedule.name", "step"], r"schedule\.milestones"),
    ],
)
def test_errors_name_the_key(tiny_arguments: list[str], arguments: list[str], message: str) -> None:
    with pytest.raises(FacekdError, match=message):
        parse(*tiny_arguments, *arguments)


def test_a_typo_in_a_file_is_found_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: a\nbakbone: {name: mobilefacenet}\n")
    with pytest.raises(ConfigError, match=r"bakbone.* did you mean 'backbone"):
        parse(str(tmp_path / "c.yaml"))


def test_a_typo_inside_a_section_of_a_file_is_found_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: a\ndata: {train: d}\nhead: {margn_value: 0.3}\n")
    with pytest.raises(ConfigError, match=r"'head\.margn_value' .* did you mean 'head\.margin_value'"):
        parse(str(tmp_path / "c.yaml"))


def test_a_wrong_value_is_blamed_on_the_file_only_where_it_stands_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("output: a\ndata: {train: d}\nschedule: {lr: abc}\n")
    with pytest.raises(ConfigError, match=r"^\S*c\.yaml: schedule\.lr: .*abc"):
        parse(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("output: a\ndata: {train: d}\nschedule: {lr: 0.1}\n")
    for option in (["--schedule.lr", "abc"], ["--schedule.lr=abc"]):
        with pytest.raises(ConfigError, match=r"^schedule\.lr: .*abc"):
            parse(str(tmp_path / "c.yaml"), *option)


def test_absent_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        parse("nowhere.yaml")
    (tmp_path / "c.yaml").write_text("output: [unclosed\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: not YAML, line 2: "):
        parse(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"c\.yaml: begins as UTF-16"):
        parse(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: holds no configuration"):
        parse(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("data: [a]\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: data is a section: expected keys below it, not \['a'\]"):
        parse(str(tmp_path / "c.yaml"))


def test_missing_data_and_output_are_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"data\.train is empty"):
        parse("--output", "x")
    with pytest.raises(ConfigError, match="output is empty"):
        parse("--data.train", "x")


def test_differences_are_dotted_and_see_missing_keys() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "e": 5}}) == {
        "b.c": (2, 4),
        "b.d": (3, None),
        "b.e": (None, 5),
    }


def test_keys_and_plain_values(tiny_config: Callable[..., TrainConfig]) -> None:
    keys = config_keys(TrainConfig)
    assert {"output", "data.train", "head.margin", "augmentation.flip", "schedule.lr"} <= set(keys)
    assert to_plain(tiny_config())["data"]["mean"] == [127.5, 127.5, 127.5]
    assert issubclass(ModelError, FacekdError) and issubclass(ConfigError, FacekdError)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--optimizer.name", "adamw", "--optimizer.momentum", "0.8"], ["optimizer.momentum = 0.8"]),
        (
            ["--optimizer.betas", "[0.8, 0.9]", "--schedule.gamma", "0.5"],
            ["optimizer.betas = ", "schedule.gamma = 0.5"],
        ),
        (["--schedule.name", "polynomial", "--schedule.power", "3"], []),
        (["--augmentation.jpeg_min_quality", "40"], ["augmentation.jpeg_min_quality = 40"]),
        (["--augmentation.jpeg_min_quality", "40", "--augmentation.jpeg", "0.1"], []),
        (["--loss.temperature", "2", "--loss.embedding_cosine", "1"], ["loss.temperature = 2.0"]),
        (["--loss.temperature", "2", "--loss.kl", "1", "--share", "1"], []),
    ],
)
def test_settings_that_nothing_reads_are_found(words: list[str], expected: list[str]) -> None:
    kind = DistillConfig if "--loss.temperature" in words else TrainConfig
    teacher = ["--teacher.model", "t"] if kind is DistillConfig else []
    found = idle_settings(parse_config(kind, ["--data.train", "x", "--output", "y", *teacher, *words], "", ""))
    assert [text[: len(start)] for text, start in zip(found, expected, strict=True)] == expected
    assert all(" has no effect: " in text for text in found)
