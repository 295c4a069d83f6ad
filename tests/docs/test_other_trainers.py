"""docs/howto/other_trainers.md: the tests that it names exist, and its keys are keys of facekd."""

from __future__ import annotations

import re

import pytest

from facekd.commands.config_files import config_keys
from facekd.importing.adaface_command import FLAGS, NUMBERS, TEXTS
from facekd.importing.arcface_config import DEFAULTS
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "howto" / "other_trainers.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", PAGE)
TABLES = dict(re.findall(r"^## (\w+).*?\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
KEYS = {*config_keys(TrainConfig), *config_keys(DistillConfig)}


@pytest.mark.parametrize(("path", "names"), TESTS, ids=lambda value: value.rpartition("/")[2])
def test_a_test_that_it_names_is_there(path: str, names: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    for name in names.split("::")[1:]:
        assert re.search(rf"^\s*(?:def|class) {name}\b", source, flags=re.MULTILINE)


def test_it_names_one_for_each_row() -> None:
    rows = [line for line in TABLES["What"].splitlines() if line.startswith("| ") and "their code" not in line]
    assert len(rows) >= 16 and all("`tests/" in row for row in rows)


def test_the_keys_of_facekd_exist() -> None:
    for words in re.findall(r"^\|[^|]*\|([^|]*)\|$", PAGE, flags=re.MULTILINE):
        for word in re.findall(
            r"`((?:backbone|head|optimizer|schedule|data|loss|validation|augmentation)\.\w+)", words
        ):
            assert word in KEYS, word


def test_every_key_that_import_config_knows_has_a_row() -> None:
    arcface, adaface = TABLES["arcface_torch"], TABLES["AdaFace"]
    assert not [key for key in DEFAULTS if f"`{key}`" not in arcface]
    missing = {key for key in (*NUMBERS, *TEXTS, *FLAGS) if f"`{key}`" not in adaface}
    assert missing <= {"custom_num_class", "train_data_subset", "fast_dev_run", "evaluate", "test_run"}
