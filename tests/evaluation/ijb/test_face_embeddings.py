"""Tests embedding the faces of an IJB-style set: alignment, cache, kill and resume, several processes, bad images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.evaluate_ijbc import main
from evaluation.ijb import face_embeddings as module
from evaluation.ijb.embed import require_same_work
from evaluation.ijb.face_embeddings import FaceEmbeddings, Share
from evaluation.ijb.protocol import load_protocol
from facekd.distributed import World
from facekd.embedder import open_embedder
from facekd.errors import DataError, run_verb
from facekd.files.output_lock import folder_lock
from facekd.images.alignment import align
from facekd.images.decoding import decode_rgb
from tests.evaluation.conftest import quarters
from tests.evaluation.ijb_layout import make_layout
from tests.facekd.head.thread_world import run_ranks

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path) -> Path:
    """A set with images: patches of colour, 120 x 130 pixels, of the identity of their template."""
    layout = make_layout(0, num_subjects=14)
    root = layout.write(tmp_path / "a set")
    generator = np.random.default_rng(0)
    subject_of = dict([*layout.probes, *(row for rows in layout.galleries.values() for row in rows)])
    for name, template in zip(layout.names, layout.templates, strict=True):
        colors = np.random.default_rng(subject_of[template]).uniform(40, 215, (4, 4, 3))
        image = cv2.resize(colors, (120, 130), interpolation=cv2.INTER_NEAREST) + generator.normal(0, 10, (130, 120, 3))
        cv2.imwrite(str(root / "loose_crop" / name), np.clip(image, 0, 255).astype(np.uint8))
    return root


@pytest.fixture
def embedder(model):
    return open_embedder(model)


def wanted(protocol) -> np.ndarray:
    return np.arange(protocol.num_listed)


def expected(protocol, images) -> np.ndarray:
    crops = []
    for image in images:
        pixels = decode_rgb(protocol.image_path(image).read_bytes())
        crops.append(align(pixels, protocol.landmarks[image], 16))
    return quarters(np.stack(crops)), quarters(np.stack(crops)[:, :, ::-1])


def test_a_cache_that_another_evaluation_fills_is_refused(root, model, tmp_path, capsys):
    words = ["--model", str(model), "--root", str(root), "--output", str(tmp_path / "out"), "--no-report"]
    with folder_lock(tmp_path / "cache", "evaluation embeds"):
        assert run_verb(lambda: main([*words, "--cache", str(tmp_path / "cache")])) == 2
    assert "cache: another evaluation embeds in this folder (process " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_rows_are_the_model_on_aligned_faces(root, embedder, tmp_path, monkeypatch, dtype, tolerance):
    monkeypatch.setattr(module, "IMAGES_CHUNK", 7)
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, True, dtype)
    embeddings.prepare()
    assert len(embeddings.missing(wanted(protocol))) == protocol.num_listed
    embeddings.fill(wanted(protocol))
    assert not len(embeddings.missing(wanted(protocol)))
    plain, mirrored = embeddings.rows().read(0, protocol.num_listed)
    naive = expected(protocol, wanted(protocol))
    assert plain.dtype == np.dtype(dtype) and mirrored is not None
    np.testing.assert_allclose(plain.astype(np.float32), naive[0], atol=tolerance)
    np.testing.assert_allclose(mirrored.astype(np.float32), naive[1], atol=tolerance)


def test_only_what_is_missing_or_changed_is_embedded(root, embedder, tmp_path, monkeypatch):
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, True)
    embeddings.prepare()
    embeddings.fill(wanted(protocol)[:20])
    again = FaceEmbeddings(tmp_path / "cache", embedder, protocol, True)
    again.prepare()
    np.testing.assert_array_equal(again.missing(wanted(protocol)), wanted(protocol)[20:])
    path = protocol.image_path(3)
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    os.utime(path, ns=(1, 1))
    assert again.missing(wanted(protocol)[:20]).tolist() == [3]
    again.fill(np.array([3]))
    np.testing.assert_allclose(again.rows().read(3, 4)[0], expected(protocol, [3])[0], atol=1e-5)


def test_another_model_or_preprocessing_has_files_of_its_own(root, model, embedder, tmp_path):
    protocol = load_protocol(root)
    digests = {
        FaceEmbeddings(tmp_path, some, protocol, True, dtype).digest
        for some, dtype in [
            (embedder, "float32"),
            (embedder, "float16"),
            (open_embedder(model, color="bgr"), "float32"),
            (open_embedder(model, mean=0, std=255), "float32"),
        ]
    }
    assert len(digests) == 4


def test_shares_make_up_the_whole(root, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_CHUNK", 5)
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, False)
    embeddings.prepare()
    for rank in (1, 0):
        embeddings.fill(wanted(protocol), Share(rank, 2))
        assert len(embeddings.missing(wanted(protocol))) > 0 or rank == 0
    assert not len(embeddings.missing(wanted(protocol)))


def test_damaged_files_are_made_again(root, embedder, tmp_path, capsys):
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, False)
    embeddings.prepare()
    embeddings.fill(wanted(protocol))
    file = next(path for path in (tmp_path / "cache").glob("*-plain.npy"))
    file.write_bytes(file.read_bytes()[:50])
    embeddings.prepare()
    assert "embedding again" in capsys.readouterr().err
    assert len(embeddings.missing(wanted(protocol))) == protocol.num_listed


def test_whatever_byte_is_damaged_the_rows_stay_right(root, embedder, tmp_path):
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, False)
    embeddings.prepare()
    embeddings.fill(wanted(protocol)[:4])
    expected = embeddings.rows().read(0, 4)[0].copy()
    generator = np.random.default_rng(0)
    for file in sorted((tmp_path / "cache").glob("*.npy")):
        whole = file.read_bytes()
        for place in [*range(0, 128, 4), *generator.integers(128, 128 + 4 * 32, 20).tolist()]:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            embeddings.prepare()
            embeddings.fill(embeddings.missing(wanted(protocol)[:4]))
            np.testing.assert_allclose(embeddings.rows().read(0, 4)[0], expected, rtol=1e-6)


def test_half_precision_that_would_overflow_is_refused(root, embedder, tmp_path, monkeypatch):
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "cache", embedder, protocol, False, "float16")
    embeddings.prepare()
    monkeypatch.setattr(type(embedder), "embed", lambda self, images: np.full((len(images), 12), 1e5, np.float32))
    with pytest.raises(DataError, match=r"1\.jpg holds 1e\+05.*--embedding-dtype float32"):
        embeddings.fill(wanted(protocol))


def run(root: Path, model: Path, out: Path, *extra: str) -> tuple[int, dict]:
    flags = ["--model", str(model), "--root", str(root), "--output", str(out), "--fars", "0.1,0.01"]
    status = run_verb(lambda: main([*flags, "--bootstrap", "100", "--no-report", *extra]))
    return status, json.loads((out / "results.json").read_text()) if status == 0 else {}


def test_images_missing_and_unreadable_fail_or_are_dropped(root, model, tmp_path, capsys):
    protocol = load_protocol(root)
    protocol.image_path(2).unlink()
    protocol.image_path(5).write_bytes(protocol.image_path(5).read_bytes()[:200])
    points = root / "meta" / "ijbc_name_5pts_score.txt"
    lines = points.read_text().splitlines()
    lines[8] = lines[8].split()[0] + " 5" * 10 + " 0.9"
    points.write_text("\n".join(lines))
    status, _ = run(root, model, tmp_path / "out")
    error = capsys.readouterr().err
    assert status == 2 and "missing image: 1" in error and "3.jpg" in error
    assert "unreadable image: 1, 6.jpg: its JPEG is cut short" in error
    assert "landmarks: 1" in error and "9.jpg" in error
    status, results = run(root, model, tmp_path / "out", "--on-missing", "drop")
    assert status == 0 and results["dropped"]["faces"] == 3
    assert {entry["kind"] for entry in results["problems"] if entry["severity"] == "drop"} >= {
        "missing image", "unreadable image", "landmarks",
    }  # fmt: skip


def test_other_switches_do_not_need_the_model_again(root, model, tmp_path, monkeypatch):
    _, first = run(root, model, tmp_path / "out")
    assert first["model"]["fingerprint"] and first["embeddings"] is None

    def refuse(*_):
        raise AssertionError("the model was run")

    monkeypatch.setattr("facekd.embedder.OnnxEmbedder.embed", refuse)
    status, second = run(root, model, tmp_path / "out", "--no-keep-norm", "--all-protocols", "--rule", "insightface")
    assert status == 0 and len(second["protocols"]) == 8
    with pytest.raises(AssertionError, match="the model was run"):
        run(root, model, tmp_path / "out", "--color", "bgr")


SLOWED = """
import sys, time
from evaluation.ijb import face_embeddings as module
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
module.IMAGES_CHUNK, module.SECONDS_BETWEEN_STAMPS = 4, 0.0
embed = OnnxEmbedder.embed
def slowly(self, images):
    time.sleep(0.2)
    return embed(self, images)
OnnxEmbedder.embed = slowly
from evaluation.evaluate_ijbc import main
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_where_it_was(root, model, embedder, tmp_path):
    flags = ["--model", str(model), "--root", str(root), "--output", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", SLOWED, *flags], cwd=ROOT, stderr=subprocess.DEVNULL)
    protocol = load_protocol(root)
    embeddings = FaceEmbeddings(tmp_path / "out" / "embeddings", embedder, protocol, True)
    deadline = time.monotonic() + 60
    left = protocol.num_listed
    while left > protocol.num_listed - 8 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
        if (tmp_path / "out" / "embeddings" / f"{embeddings.digest}-mirrored-stamps.npy").exists():
            left = len(embeddings.missing(wanted(protocol)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    missing = embeddings.missing(wanted(protocol))
    assert 0 < len(missing) < protocol.num_listed  # killed in the middle, and what was done is kept
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        load = FaceEmbeddings._load
        patch.setattr(FaceEmbeddings, "_load", lambda self, image: (seen.append(image), load(self, image))[1])
        status, resumed = run(root, model, tmp_path / "out")
    assert status == 0 and sorted(seen) == missing.tolist()
    _, fresh = run(root, model, tmp_path / "fresh")
    assert resumed["tar_at_far"] == fresh["tar_at_far"] and resumed["identification"] == fresh["identification"]


def test_processes_that_would_embed_something_else_are_refused(root, model, embedder, tmp_path, monkeypatch):
    copied = shutil.copytree(root, tmp_path / "copied")

    def said(other_root=root, other_embedder=embedder, other_flip=True, other_wanted=wanted) -> str:
        ranks = [(root, embedder, True, wanted), (other_root, other_embedder, other_flip, other_wanted)]
        found = ["", ""]

        def work(world: World) -> None:
            place, own, flip, choose = ranks[world.rank]
            protocol = load_protocol(place, may_write=False)
            try:
                require_same_work(world, FaceEmbeddings(tmp_path, own, protocol, flip), choose(protocol))
            except DataError as error:
                found[world.rank] = str(error)

        run_ranks(2, monkeypatch, work)
        assert found[0] == found[1]
        return found[0]

    assert said() == ""
    # Of copies, half of the rows would be missed in the end: an image is told by its times, too.
    assert "the images on rank 1 are other files" in said(other_root=copied)
    others = ({"other_embedder": open_embedder(model, color="bgr")}, {"other_flip": False})
    for other in (*others, {"other_wanted": lambda protocol: wanted(protocol)[1:]}):
        assert "what rank 1 is to embed, or its model or options, are not those of the main" in said(**other)


@pytest.mark.slow
def test_two_processes_share_the_work(root, model, tmp_path):
    flags = ["--model", str(model), "--root", str(root), "--fars", "0.1", "--no-report", "--bootstrap", "0"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m"]
    command = [*launch, "evaluation.evaluate_ijbc", *flags, "--output", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    _, alone = run(root, model, tmp_path / "one", "--fars", "0.1", "--bootstrap", "0")
    assert json.loads((tmp_path / "two" / "results.json").read_text())["tar_at_far"] == alone["tar_at_far"]


def test_a_third_partys_model_on_real_photographs(real_data, tmp_path):
    """Landmarks given, photographs not aligned, a fixed batch of 1: end to end, and people are told apart."""
    model = real_data("models/mobilefacenet_128_fixed_batch.onnx")
    photos, detector = real_data("photos"), real_data("models/scrfd_2.5g_bnkps.onnx")
    from data_prep.align_faces import main as align_faces
    from data_prep.make_ijb_layout import main as make_ijb

    assert (
        align_faces([str(photos), str(tmp_path / "aligned"), "--detector", str(detector), "--detector-size", "320"])
        == 0
    )
    lines = [json.loads(line) for line in (tmp_path / "aligned" / "align_log.jsonl").read_text().splitlines()]
    faces = [line for line in lines if "landmarks" in line and "photo" in line]
    rows = ["\t".join(map(str, (face["photo"], *face["landmarks"], face["score"]))) for face in faces]
    (tmp_path / "landmarks.tsv").write_text("\n".join(rows) + "\n")
    layout = [
        str(photos),
        str(tmp_path / "set"),
        "--landmarks",
        str(tmp_path / "landmarks.tsv"),
        "--largest-probe",
        "2",
    ]
    assert make_ijb([*layout, "--on-missing", "drop"]) in (0, None)
    imagenet = ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--color", "rgb"]
    status, results = run(tmp_path / "set", model, tmp_path / "out", *imagenet)
    assert status == 0 and results["dataset"]["num_subjects"] == 10
    assert results["eer"] < 0.05 and results["auc"] > 0.97
    assert results["identification"]["mean"]["rank"][0]["rate"] > 0.9
