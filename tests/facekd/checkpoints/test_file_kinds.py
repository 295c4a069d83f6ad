"""Files given in the place of a model are called what they are, whichever verb gets them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.file_kinds import describe_file
from facekd.checkpoints.import_insightface import read_state_dict
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, FacekdError, ModelError

STATE = {"fc.weight": torch.zeros(2, 3)}


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def write_script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # the names that torch.jit.save gives
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"model/{name}", b"x")


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "ONNX": (lambda path: path.write_bytes(b"\x08\x06\x12\x07pytorch"), "an ONNX file"),
    "records": (lambda path: path.write_bytes(b"\x0a\x23\xd7\xce\x18\0\0\0" + bytes(24)), "a .rec pack of images"),
    "pairs": (lambda path: path.write_bytes(pickle.dumps(([b"image"], [True]))), "a pickle, as verification packs"),
    "cache": (lambda path: path.write_bytes(bytes(64) + b"facekd teacher\n\n"), "a teacher cache"),
    "zip": (write_zip, "a zip archive of no model"),
    "arrays": (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "an archive of numpy arrays"),
    "script": (write_script, "a TorchScript archive"),
    "text": (lambda path: path.write_text("data:\n  train: ms1mv3\n"), "a text file"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "a Git LFS pointer"),
    "mxnet": (lambda path: path.write_bytes(b"\x12\x01" + bytes(30)), "an mxnet .params file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_torch_file_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    write, name = KINDS[kind]
    path = tmp_path / "model.pt"
    write(path)
    assert describe_file(path).startswith(name)
    # No message speaks of pickled code or a bad download, where another kind of file was given.
    with pytest.raises(CheckpointError, match=rf"model\.pt: is {name}.*, not a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(ModelError, match=rf"model\.pt: is {name}.*; expected the state dict"):
        read_state_dict(path)
    if kind == "ONNX":  # it is opened, and this one is cut short
        name = "holds no graph; was it copied or downloaded completely"
    with pytest.raises(FacekdError, match=rf"model\.pt: (is )?{name}"):
        open_embedder(path)


def test_torch_files_of_either_format_are_torchs(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "new.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert describe_file(tmp_path / "new.pt") == "a torch file"
    assert describe_file(tmp_path / "old.pt") == "a torch file as written before torch 1.6"
    assert read_state_dict(tmp_path / "new.pt").keys() == read_state_dict(tmp_path / "old.pt").keys() == STATE.keys()
    with pytest.raises(CheckpointError, match=r"before torch 1\.6, not a checkpoint; `facekd import` reads"):
        read_checkpoint(tmp_path / "old.pt")


def test_a_folder_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; expected the state dict"):
        read_state_dict(tmp_path)


def test_bytes_of_no_known_kind_have_no_name(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"\x7f\x00\x01\x02" * 9)
    assert describe_file(path) == ""
    with pytest.raises(
        ModelError, match=r"is of an unknown kind \(it starts with 7f 00 01 02\); expected an ONNX file"
    ):
        open_embedder(path)
