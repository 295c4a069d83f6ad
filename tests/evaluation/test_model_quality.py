"""`--quality model`: the same as a file of the numbers that the model gives, in every evaluation that takes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from evaluation.evaluate_folder import main as evaluate_folder
from evaluation.evaluate_ijbc import main as evaluate_ijbc
from evaluation.evaluate_lfw import main as evaluate_lfw
from evaluation.ijb import face_embeddings
from evaluation.ijb.face_embeddings import FaceEmbeddings, FaceQualities, Share
from evaluation.ijb.protocol import IjbProtocol, load_protocol
from evaluation.sets.face_folder import FaceFolder
from evaluation.sets.pair_set import load_pair_set
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
from facekd.embedder.quality import QualityEmbedder
from facekd.images.preprocessing import Preprocessing
from tests.evaluation.conftest import SIZE, make_model
from tests.evaluation.ijb_layout import make_layout

ROOT = Path(__file__).resolve().parents[2]
Verb = Callable[[list[str]], int]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """The model of the packs with a second output: how bright the lower half of an image is, from 0 to 1."""
    path = make_model(tmp_path / "scored.onnx")
    model = onnx.load(path)
    ends = [onnx.numpy_helper.from_array(np.array([end]), name) for name, end in (("from", 1), ("to", 2), ("axis", 2))]
    model.graph.initializer.extend(ends)
    model.graph.node.extend(
        [
            helper.make_node("Slice", ["pooled", "from", "to", "axis"], ["lower"]),
            helper.make_node("ReduceMean", ["lower"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Sigmoid", ["mean"], ["quality"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("quality", TensorProto.FLOAT, ["batch"]))
    onnx.save(model, path)
    return path


def qualities(scored: Path, images: np.ndarray) -> np.ndarray:
    """The output `quality`, straight from onnxruntime; nearly equal images would change places by another rounding."""
    x = Preprocessing(127.5, 127.5, "rgb", SIZE).apply(images)
    found = onnxruntime.InferenceSession(scored).run(["quality"], {"images": x})[0]
    expected = 1 / (1 + np.exp(-x[:, :, 8:].astype(np.float64).mean(axis=(1, 2, 3))))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    return found


def both(run: Run, verb: Verb, words: list[Any], values: np.ndarray, folder: Path, *more: str) -> list[dict[str, Any]]:
    """Results by the model's own quality, and by a file of values."""
    np.save(folder / "values.npy", values)
    found = []
    for number, quality in enumerate(("model", folder / "values.npy")):
        output = folder / f"out{number}"
        status, _, error = run(verb, *words, "--quality", quality, "--output", output, "--no-report", *more)
        assert status == 0, error
        found.append(json.loads((output / "results.json").read_text()))
    assert found[0]["quality"]["source"] == {"kind": "model"} and "what the model says" in found[0]["quality"]["text"]
    assert found[0]["quality"]["curves"]
    return found


def test_of_a_pack(run: Run, scored: Path, pack: Path, tmp_path: Path) -> None:
    words = ["--model", scored, "--pairs", pack, "--folds", "2", "--bootstrap", "0", "--no-pictures"]
    values = qualities(scored, load_pair_set(pack).decode(0, 80))
    by_model, by_file = both(run, evaluate_lfw, words, values, tmp_path)
    assert by_model["quality"]["curves"] == by_file["quality"]["curves"]
    assert by_model["model"]["output"] == "embedding" and by_model["eer"] == by_file["eer"]


def write_people(folder: Path) -> Path:
    draws = np.random.default_rng(0)
    for person in range(6):
        colors = draws.uniform(60, 195, (2, 2, 3))
        (folder / f"p{person}").mkdir(parents=True)
        for number in range(4):
            noisy = np.clip(colors + draws.normal(0, 25, (2, 2, 3)), 0, 255)
            image = np.kron(noisy, np.ones((SIZE // 2, SIZE // 2, 1))).astype(np.uint8)
            cv2.imwrite(str(folder / f"p{person}" / f"{number}.png"), image)
    return folder


def test_of_a_folder(run: Run, scored: Path, tmp_path: Path) -> None:
    people = write_people(tmp_path / "people")
    faces = FaceFolder(people, SIZE)
    values = qualities(scored, faces.decode(0, len(faces)))
    words = ["--model", scored, "--images", people, "--bootstrap", "0", "--fars", "0.1,0.3"]
    by_model, by_file = both(run, evaluate_folder, words, values, tmp_path)
    assert by_model["quality"]["curves"] == by_file["quality"]["curves"]


def write_templates(folder: Path) -> Path:
    layout = make_layout(1, num_subjects=8)
    root = layout.write(folder)
    (root / "loose_crop").mkdir(exist_ok=True)
    draws = np.random.default_rng(0)
    for name in layout.names:
        image = draws.integers(0, 256, (14, 14, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        cv2.imwrite(str(root / "loose_crop" / name), image)
    return root


def test_of_templates_and_as_their_weights(run: Run, scored: Path, tmp_path: Path) -> None:
    root = write_templates(tmp_path / "set")
    protocol = load_protocol(root)
    images = np.stack([protocol.read_face(image, SIZE) for image in range(protocol.num_listed)])
    words = ["--model", scored, "--root", root, "--bootstrap", "0", "--fars", "0.3", "--protocol", "1:1"]
    by_model, by_file = both(run, evaluate_ijbc, words, qualities(scored, images), tmp_path, "--weight-by-quality")
    assert by_model["quality"]["curves"] == by_file["quality"]["curves"]
    weighted = [np.load(tmp_path / f"out{number}" / "scores.npy") for number in (0, 1)]
    np.testing.assert_allclose(weighted[0], weighted[1], atol=1e-6)
    status, _, error = run(evaluate_ijbc, *words, "--output", tmp_path / "plain", "--no-report")
    assert status == 0, error
    assert np.abs(np.load(tmp_path / "plain" / "scores.npy") - weighted[0]).max() > 1e-4


def arrays(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def test_templates_take_one_pass_and_only_what_is_missing(
    run: Run, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_templates(tmp_path / "set")
    words = ["--model", scored, "--root", root, "--bootstrap", "0", "--fars", "0.3", "--protocol", "1:1", "--no-report"]
    seen: dict[str, list[int]] = {"read": [], "embed": [], "embed_with_quality": []}
    read = IjbProtocol.read_face
    monkeypatch.setattr(
        IjbProtocol, "read_face", lambda self, image, size: (seen["read"].append(image), read(self, image, size))[1]
    )
    for name in ("embed", "embed_with_quality"):
        plain = getattr(OnnxEmbedder, name)
        monkeypatch.setattr(
            OnnxEmbedder, name, lambda self, x, n=name, f=plain: (seen[n].append(len(x)), f(self, x))[1]
        )

    def evaluated(output: str, *more: Any) -> dict[str, int]:
        """Runs, and counts the images that were read, embedded, and embedded with their quality."""
        status, _, error = run(evaluate_ijbc, *words, "--output", tmp_path / output, *more)
        assert status == 0, error
        assert len(set(seen["read"])) == len(seen["read"]), "an image is read once"
        counts = {"read": len(seen["read"]), **{name: sum(seen[name]) for name in ("embed", "embed_with_quality")}}
        for found in seen.values():
            found.clear()
        return counts

    # All at once: the plain images give both, and the mirrored ones are embedded.
    num = load_protocol(root).num_listed
    together = tmp_path / "together" / "embeddings"
    assert evaluated("together", "--quality", "model") == {"read": num, "embed": num, "embed_with_quality": num}
    # One after the other gives the same files.
    apart = tmp_path / "apart" / "embeddings"
    assert evaluated("apart") == {"read": num, "embed": 2 * num, "embed_with_quality": 0}
    assert evaluated("apart", "--quality", "model")["embed"] == 0
    assert len(arrays(together)) == 6 and arrays(apart) == arrays(together)
    # A killed run may have stamped one and not the other: each is made again where it is missing.
    before = arrays(together)
    [of_quality] = [path for path in together.glob("*-plain.npy") if np.load(path).shape[1] == 1]
    for path, rows in ((of_quality, [1, 3]), (next(together.glob("*-mirrored.npy")), [3, 5, 6])):
        stamps = np.lib.format.open_memmap(path.with_name(f"{path.stem}-stamps.npy"), mode="r+")
        stamps[rows] = 0
        stamps.flush()
    assert evaluated("together", "--quality", "model") == {"read": 4, "embed": 5, "embed_with_quality": 2}
    assert arrays(together) == before


def test_shares_of_templates_make_up_the_whole(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_embeddings, "IMAGES_CHUNK", 5)
    protocol, embedder = load_protocol(write_templates(tmp_path / "set")), OnnxEmbedder(scored)
    images = np.arange(protocol.num_listed)
    found = []
    for size in (1, 3):
        kinds = (
            FaceEmbeddings(tmp_path / str(size), embedder, protocol, True),
            FaceQualities(tmp_path / str(size), QualityEmbedder(embedder, scored), protocol),
        )
        for kind in kinds:
            kind.prepare()
        for rank in range(size):
            kinds[0].fill(images, Share(rank, size), None, kinds[1])
        assert not any(len(kind.missing(images)) for kind in kinds)
        found.append(arrays(tmp_path / str(size)))
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(run: Run, scored: Path, tmp_path: Path) -> None:
    root = write_templates(tmp_path / "set")
    words = ["--model", scored, "--root", root, "--bootstrap", "0", "--fars", "0.3", "--protocol", "1:1", "--no-report"]
    words += ["--quality", "model", "--weight-by-quality"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m"]
    command = [*launch, "evaluation.evaluate_ijbc", *map(str, words), "--output", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    status, _, error = run(evaluate_ijbc, *words, "--output", tmp_path / "one")
    assert status == 0, error
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    for key in ("tar_at_far", "eer", "quality"):
        assert results[0][key] == results[1][key]
    assert arrays(tmp_path / "one" / "embeddings") == arrays(tmp_path / "two" / "embeddings")


def test_a_model_that_says_nothing_and_embeddings_are_refused(
    run: Run, model: Path, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people" / "p").mkdir(parents=True)
    (tmp_path / "people" / "p" / "1.png").write_bytes(load_pair_set(pack).images[0])
    for verb, words in (
        (evaluate_lfw, ["--pairs", pack]),
        (evaluate_folder, ["--images", tmp_path / "people"]),
        (evaluate_ijbc, ["--root", make_layout(1, num_subjects=8).write(tmp_path / "set")]),
    ):
        ends = ["--output", tmp_path / "out", "--quality", "model"]
        status, _, error = run(verb, "--model", model, *words, *ends)
        assert status == 2 and "quarters.onnx: says nothing of the quality of images" in error, error
        np.save(tmp_path / "rows.npy", np.ones((80, 4)))
        with pytest.raises(SystemExit):
            verb([str(word) for word in ["--embeddings", tmp_path / "rows.npy", *words, *ends]])
        assert "--quality model asks the model" in capsys.readouterr().err
