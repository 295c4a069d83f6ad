"""docs/keys.md: every key, its default and what its docstring says."""

from __future__ import annotations

import re

from facekd.commands.config_help import leaf_defaults
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from tests.docs.keys_page import PAGE, describe_keys, whole_page


def test_the_list_is_what_the_dataclasses_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == whole_page(), "write it again: python -m tests.docs.keys_page"


def test_every_key_is_listed_once_with_a_meaning() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .*? \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    keys = [key for key, _ in rows]
    assert sorted(keys) == sorted({*leaf_defaults(TrainConfig), *leaf_defaults(DistillConfig)})
    assert all(len(meaning) > 10 for _, meaning in rows)
    assert describe_keys(TrainConfig)["schedule.lr"]
