"""Files given in the place of a model are called what they are, whichever verb gets them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.file_kinds import describe_file
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, FacekdError, ModelError
from facekd.importing.weight_files import read_weights

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
        read_weights(path)
    if kind == "ONNX":  # it is opened, and this one is cut short
        name = "holds no graph; was it copied or downloaded completely"
    with pytest.raises(FacekdError, match=rf"model\.pt: (is )?{name}"):
        open_embedder(path)


def test_torch_files_of_either_format_are_torchs(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "new.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert describe_file(tmp_path / "new.pt") == "a torch file"
    assert describe_file(tmp_path / "old.pt") == "a torch file as written before torch 1.6"
    assert (
        read_weights(tmp_path / "new.pt").state.keys() == read_weights(tmp_path / "old.pt").state.keys() == STATE.keys()
    )
    with pytest.raises(CheckpointError, match=r"before torch 1\.6, not a checkpoint; `facekd import` reads"):
        read_checkpoint(tmp_path / "old.pt")


def test_safetensors_are_told_from_files_that_begin_alike(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for length, start in ((201, b"\x08"), (65, b"\x80")):  # ONNX files and pickles begin with these
        name = "f" * length
        safetensors.torch.save_file({name: torch.zeros(2, 3)}, path)
        assert path.read_bytes().startswith(start)
        assert describe_file(path) == "a safetensors file" and read_weights(path).state.keys() == {name}
    with pytest.raises(CheckpointError, match="is a safetensors file, not a checkpoint; `facekd import` reads"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cannot be read as a safetensors file"):
        read_weights(path)


def test_a_folder_is_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; expected the state dict"):
        read_weights(tmp_path)


def test_bytes_of_no_known_kind_have_no_name(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"\x7f\x00\x01\x02" * 9)
    assert describe_file(path) == ""
    with pytest.raises(
        ModelError, match=r"is of an unknown kind \(it starts with 7f 00 01 02\); expected an ONNX file"
    ):
        open_embedder(path)
