"""Checks that a list of what to drop holds the actions that were put into it, and no others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from data_prep.inspection.clean_lists import read_clean_lists, write_clean_list


def test_a_name_is_no_action(tmp_path: Path) -> None:
    pack = SimpleNamespace(image_keys=np.arange(3), labels=lambda: np.zeros(3, np.int64))
    comments = ["images that those of x\ndrop-identity\t3\n.bin come near to"]
    rows = [("drop", 1, "0.9", "name\rdrop\t2"), ("merge", 4, 5, "a\nmerge\t6\t7")]
    write_clean_list(tmp_path / "list.tsv", pack, comments, rows)  # type: ignore[arg-type]
    changes = read_clean_lists([tmp_path / "list.tsv"])
    assert (changes.keys, changes.labels, changes.merges) == ({1}, set(), [(4, 5)])
    changes.check_pack(pack.image_keys, pack.labels(), tmp_path)
