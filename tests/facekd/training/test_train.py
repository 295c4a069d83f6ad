"""Training: the loop, its log, exact resume after kill -9, accumulation, processes, and what stops it."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.run_folder import checkpoint_path, list_checkpoints
from facekd.commands.config_files import parse_config
from facekd.data.datasets import SyntheticDataset, open_dataset
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.distributed import World
from facekd.errors import CheckpointError, ConfigError, DataError, FacekdError, InUseError, TrainingError, run_verb
from facekd.training.config import TrainConfig
from facekd.training.logbook import read_log
from facekd.training.loop import make_run_loader, round_up, train
from facekd.training.resume import restore_latest, save_state
from facekd.training.state import TrainingState, build_state
from facekd.training.train import main
from facekd.training.train_step import train_step

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


def losses(folder: Path | str) -> list[tuple[int, float]]:
    return [(entry["images_seen"], entry["loss"]) for entry in read_log(folder, "train")]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    content = load_checkpoint(folder)
    return {**content["backbone"], **{f"head.{name}": value for name, value in content["head"].items()}}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def start(arguments: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "facekd", "train", *arguments, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)


def iter_until(lines: Iterable[bytes], words: bytes) -> Iterator[bytes]:
    for line in lines:
        yield line
        if words in line:
            return


def wait_for_log(output: Path, entries: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_log(output, "train")) < entries:
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.005)


def test_the_loss_falls_and_the_log_says_how_it_went(
    tiny_config: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(images=600)
    assert train(config, ALONE) == 0
    said = capsys.readouterr().err
    assert f"data       {config.data.train}: 42 images, 6 of 6 classes have any, labels 0 to 5\n" in said
    assert f"export with `facekd export {config.output} --output model.onnx`" in said
    entries = read_log(config.output, "train")
    assert [entry["images_seen"] for entry in entries] == list(range(12, 601, 12))
    assert np.mean([entry["loss"] for entry in entries[-5:]]) < 0.5 * entries[0]["loss"]
    assert entries[1]["lr"] < entries[2]["lr"] == pytest.approx(0.05)
    assert all(entry["images_per_second"] > 0 and 0 <= entry["data_wait"] <= 1 for entry in entries)
    assert entries[-1]["seconds_left"] == 0


def test_checkpoints_keep_the_newest_and_load_as_a_backbone(tiny_config: Configure) -> None:
    config = tiny_config(checkpoint__keep=2)
    train(config, ALONE)
    kept = [checkpoint_path(Path(config.output), n) for n in (96, 120)]
    assert list_checkpoints(Path(config.output)) == kept
    # A run that was killed after it wrote the last one, and before it deleted the oldest, is tidied by the next.
    shutil.copy(kept[0], checkpoint_path(Path(config.output), 72))
    train(config, ALONE)
    assert list_checkpoints(Path(config.output)) == kept
    backbone, preprocessing = load_backbone(config.output)
    assert not backbone.training
    assert (preprocessing.image_size, preprocessing.mean) == (32, (127.5, 127.5, 127.5))
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


@pytest.mark.usefixtures("full_depth")
def test_a_killed_run_resumes_bit_for_bit(tiny_arguments: list[str], tmp_path: Path) -> None:
    # 42 images in batches of 12: the kill falls inside an epoch. Worker processes, dropout, EMA and momentum are on.
    extra = (
        "--data.workers",
        "1",
        "--ema_half_life_images",
        "50",
        "--images",
        "216",
        "--checkpoint.every_images",
        "60",
    )
    words = [*tiny_arguments, *extra, "--augmentation.color_jitter", "0.5"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = start(words, broken)
    wait_for_log(broken, 7)
    run.kill()
    run.communicate()
    _, errors = start(words, broken).communicate()
    assert b"resuming from" in errors
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other two
    train(parse_config(TrainConfig, [*words, "--output", str(whole)], "", ""), ALONE)
    torch.set_num_threads(threads)
    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == 18
    assert_same_weights(final_weights(broken), final_weights(whole))
    averages = [load_checkpoint(folder)["ema"] for folder in (whole, broken)]
    assert_same_weights(*averages)


def test_sigterm_saves_before_stopping(tiny_arguments: list[str], tiny_config: Configure, tmp_path: Path) -> None:
    arguments = [*tiny_arguments, "--images", "12000", "--checkpoint.every_images", "0"]
    run = start(arguments, tmp_path / "run")
    wait_for_log(tmp_path / "run", 3)
    assert run.stderr is not None
    run.send_signal(signal.SIGTERM)  # the scheduler's
    errors = b"".join(iter_until(run.stderr, b"stopped by a signal"))
    run.send_signal(signal.SIGTERM)  # the launcher's, when all is saved
    errors += run.stderr.read()
    assert run.wait() == 128 + signal.SIGTERM, errors.decode()
    assert load_checkpoint(tmp_path / "run")["training"]["images_seen"] == losses(tmp_path / "run")[-1][0]


# A session of its own, whose terminal is the standard input: when the other end is closed, it gets SIGHUP.
IN_A_TERMINAL = """
import os, sys
os.setsid()
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execvp(sys.executable, [sys.executable, "-m", "facekd", "train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_terminal_that_goes_away_costs_no_work(tiny_arguments: list[str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = [*tiny_arguments, "--images", "120000", "--checkpoint.every_images", "0"]
    command = [sys.executable, "-c", IN_A_TERMINAL, *arguments, "--output", str(tmp_path / "run")]
    run = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    while len(losses(tmp_path / "run")) < 3:
        os.read(ours, 1 << 16)  # a full terminal would stop the run
    os.close(ours)
    assert run.wait(120) == 128 + signal.SIGHUP
    assert load_checkpoint(tmp_path / "run")["training"]["images_seen"] == losses(tmp_path / "run")[-1][0]


def test_a_run_whose_folder_is_deleted_ends_and_does_not_make_it_again(tiny_config: Configure) -> None:
    config = tiny_config(checkpoint__every_images=24)

    def delete_and_step(state: TrainingState, *given: Any) -> Any:
        if state.images_seen == 36:
            shutil.rmtree(config.output)
        return train_step(state, *given)

    with (
        mock.patch("facekd.training.loop.train_step", delete_and_step),
        pytest.raises(DataError, match="was deleted while this command was writing into it"),
    ):
        train(config, ALONE)
    assert not Path(config.output).exists()


def test_the_same_command_after_the_end_trains_no_further(tiny_config: Configure) -> None:
    config = tiny_config()
    train(config, ALONE)
    before = losses(config.output)
    assert train(config, ALONE) == 0
    assert losses(config.output) == before


def test_accumulation_equals_the_large_batch(tiny_config: Configure) -> None:
    # Batch normalisation in evaluation mode, for its batches are the micro-batches by definition.
    results = []
    for size in (0, 5):  # 5 + 5 + 2: the last one is smaller
        config = tiny_config(batch_size_per_rank=size, backbone__dropout=0)
        state = build_state(config, ALONE, open_dataset(config.data.train, 32), 120)
        state.recognizer.eval()
        step_losses = [
            train_step(state, batch, 0.001)[0] for batch, _ in zip(make_run_loader(state), range(3), strict=False)
        ]
        results.append((step_losses, [value.detach() for value in state.recognizer.parameters()]))
    (large_losses, large), (small_losses, small) = results
    np.testing.assert_allclose(small_losses, large_losses, rtol=1e-5)
    for one, other in zip(large, small, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_only_the_gradient_of_the_backbone_is_clipped(tiny_config: Configure) -> None:
    def step(clip_norm: float) -> tuple[dict[str, float], list[torch.Tensor], list[torch.Tensor]]:
        state = build_state(config := tiny_config(clip_norm=clip_norm), ALONE, open_dataset(config.data.train, 32), 120)
        _, norms, _ = train_step(state, next(iter(make_run_loader(state))), 0.01)
        parts = state.recognizer.backbone, state.recognizer.head
        return norms, *([p.grad.clone() for p in part.parameters() if p.grad is not None] for part in parts)

    whole, clipped = step(0), step(0.25)
    assert whole[0] == pytest.approx(clipped[0])  # the norms told are those from before
    assert whole[0]["gradient_norm"] > 0.25
    for ours, theirs in zip(clipped[1], whole[1], strict=True):
        torch.testing.assert_close(ours, theirs * (0.25 / whole[0]["gradient_norm"]))
    for ours, theirs in zip(clipped[2], whole[2], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert whole[0]["head_gradient_norm"] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in whole[2])))


def test_a_run_saves_by_the_clock_too(tiny_config: Configure) -> None:
    config = tiny_config(checkpoint__every_images=0, checkpoint__every_minutes=1e-9, checkpoint__keep=100, images=60)
    train(config, ALONE)
    assert len(list_checkpoints(Path(config.output))) == 5  # every step is later than the last save


def test_a_signal_during_a_step_counts_at_its_end(tiny_config: Configure) -> None:
    state = build_state(config := tiny_config(), ALONE, open_dataset(config.data.train, 32), 120)
    asked_after = []

    def stop_and_save_requests() -> tuple[bool, bool]:
        asked_after.append(all(p.grad is not None for p in state.recognizer.backbone.parameters()))
        return True, False

    assert train_step(state, next(iter(make_run_loader(state))), 0.01, stop_and_save_requests)[2] == [True, False]
    assert asked_after == [True]


def test_passes_larger_than_the_share_of_a_process_are_refused(tiny_config: Configure) -> None:
    with pytest.raises(TrainingError, match=r"batch_size_per_rank = 100 is more than .* share .* which is 12"):
        train(tiny_config(batch_size_per_rank=100), ALONE)


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_config: Configure) -> None:
    config = tiny_config(schedule__lr=1e25, schedule__warmup_images=0, clip_norm=0)
    with pytest.raises(TrainingError, match=r"at step \d+ .*learning rate 9e\+24\); the weights were not updated"):
        train(config, ALONE)
    for path in list_checkpoints(Path(config.output)):
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["head"].values())


def test_weights_stay_when_the_loss_is_not_finite(tiny_config: Configure) -> None:
    config = tiny_config()
    state = build_state(config, ALONE, open_dataset(config.data.train, 32), 120)
    batch = next(iter(make_run_loader(state)))
    with torch.no_grad():
        state.recognizer.head.weight[0, 0] = float("nan")
    before = [value.clone() for value in state.recognizer.parameters()]
    with pytest.raises(TrainingError, match="not updated"):
        train_step(state, batch, 0.1)
    for old, new in zip(before, state.recognizer.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())
    assert state.images_seen == 0


def state_with_scaler(config: TrainConfig, scale: float) -> TrainingState:
    """A fresh state whose loss is scaled; there is a scaler for CPUs, though fp16 is refused there."""
    state = build_state(config, ALONE, open_dataset(config.data.train, 32), 120)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return state


def test_a_scale_that_overflows_skips_the_update_and_falls(tiny_config: Configure) -> None:
    state = state_with_scaler(tiny_config(batch_size_per_rank=6), 2.0**127)
    batch = next(iter(make_run_loader(state)))
    before = [value.clone() for value in state.recognizer.parameters()]
    (loss,), norms, _ = train_step(state, batch, 0.1)
    assert math.isfinite(loss) and not math.isfinite(norms["gradient_norm"])
    assert state.scaler.get_scale() == 2.0**126
    for old, new in zip(before, state.recognizer.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_scaled_loss_trains_as_a_plain_one(tiny_config: Configure) -> None:
    results = []
    for scaled in (False, True):
        config = tiny_config(batch_size_per_rank=5, clip_norm=0.5)  # 5 + 5 + 2; clipped at every step
        state = state_with_scaler(config, 2.0**10)
        if not scaled:
            state.scaler = torch.amp.GradScaler("cpu", enabled=False)
        steps = [train_step(state, batch, 0.05) for batch, _ in zip(make_run_loader(state), range(3), strict=False)]
        results.append(np.array([(loss, norms["gradient_norm"]) for (loss,), norms, _ in steps]))
    assert (results[0][:, 1] > 0.5).all()
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)


def test_a_skipped_update_leaves_no_trace_in_the_steps_after_it(tiny_config: Configure) -> None:
    """The optimizer, its momentum and the clock go on as if the images of that step had had no gradient."""
    ends = []
    for overflows in (True, False):
        config = tiny_config(batch_size_per_rank=6)
        state = state_with_scaler(config, 2.0**10)
        if not overflows:
            state.scaler = torch.amp.GradScaler("cpu", enabled=False)
        for number, batch in zip(range(4), make_run_loader(state), strict=False):
            if number != 1:
                train_step(state, batch, 0.05)
            elif overflows:
                weight = state.recognizer.head.weight
                hook = weight.register_hook(lambda gradient: gradient * math.inf)
                train_step(state, batch, 0.05)
                hook.remove()
                assert state.scaler.get_scale() == 2.0**9
            else:
                state.images_seen += config.global_batch_size
        ends.append([value.detach() for value in state.recognizer.parameters()])
        assert state.images_seen == 4 * config.global_batch_size
    for skipped, plain in zip(*ends, strict=True):
        torch.testing.assert_close(skipped, plain, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_keeps_the_scale_that_fell(tiny_config: Configure) -> None:
    config = tiny_config(batch_size_per_rank=6)
    state = state_with_scaler(config, 2.0**127)
    train_step(state, next(iter(make_run_loader(state))), 0.1)
    save_state(state)
    resumed = state_with_scaler(config, 2.0**10)
    assert restore_latest(resumed) is not None
    assert resumed.scaler.get_scale() == 2.0**126
    assert resumed.scaler.state_dict() == state.scaler.state_dict()


def test_a_gradient_that_is_infinite_at_any_scale_stops(tiny_config: Configure) -> None:
    state = state_with_scaler(tiny_config(), 1.0)
    state.recognizer.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="the norm of the gradient is"):
        train_step(state, next(iter(make_run_loader(state))), 0.1)


def test_a_damaged_checkpoint_is_named_with_the_one_before(tiny_config: Configure) -> None:
    config = tiny_config()
    train(config, ALONE)
    whole, weights = losses(config.output), final_weights(Path(config.output))
    newest = list_checkpoints(Path(config.output))[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"120\.pt: .*Delete 000000000120\.pt .* resumes from 000000000096\.pt"):
        train(config, ALONE)
    newest.unlink()
    assert train(config, ALONE) == 0
    assert losses(config.output) == whole
    assert_same_weights(final_weights(Path(config.output)), weights)


def test_a_bad_record_may_be_skipped_from_where_it_stopped_the_run(
    tiny_config: Configure, tiny_faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_faces, tmp_path / "faces")
    bad = tmp_path / "faces" / "person_5" / "3.png"
    bad.write_bytes(bad.read_bytes()[:100])
    common = {"data__train": tmp_path / "faces", "checkpoint__every_images": 12}
    with pytest.raises(FacekdError, match=r"3\.png.*on_bad_record"):
        train(tiny_config(**common), ALONE)
    config = tiny_config(**common, data__on_bad_record="skip")
    for _ in range(2):  # the second has nothing to do, and says nothing more
        assert train(config, ALONE) == 0
        (entry,) = read_log(config.output, "bad_records")
        assert entry["count"] in (2, 3) and len(entry["records"]) == 1


@pytest.mark.parametrize(
    ("processes", "size", "message"),
    [
        (1, 11, r"batch_size_per_rank = 11, makes a forward pass of a single image.* to 10, or to 0 for the whole"),
        (5, 2, r"over 5 processes, with batch_size_per_rank = 2, makes .* set batch_size_per_rank to 0 for the whole"),
        (5, 4, r"batch_size_per_rank = 4 is more than a process's share of global_batch_size = 12, which is 3"),
        (7, 0, r"global_batch_size = 12 over 7 processes leaves a single image for some.*: start at most 6"),
        (13, 0, r"over 13 processes leaves no image for some.*: start at most 6"),
    ],
)
def test_a_pass_of_one_image_is_refused(processes: int, size: int, message: str, tiny_config: Configure) -> None:
    with pytest.raises(TrainingError, match=message):
        train(tiny_config(batch_size_per_rank=size), World(0, processes, ALONE.device))


def test_a_gpu_out_of_memory_says_what_to_change(tiny_arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("facekd.training.loop.train_step", fail)
    with pytest.raises(TrainingError, match=r"smaller batch_size_per_rank \(now 0.*Tried to allocate"):
        main(tiny_arguments)


def test_resuming_with_another_configuration_is_refused(tiny_config: Configure) -> None:
    train(tiny_config(), ALONE)
    with pytest.raises(CheckpointError, match=r"head\.margin_value was 0\.2, now 0\.3"):
        train(tiny_config(head__margin_value=0.3), ALONE)
    with pytest.raises(CheckpointError, match=r"backbone\.width was 0\.125, now 0\.25"):
        train(tiny_config(backbone__width=0.25), ALONE)


LONGER = [
    # Begun with, and gone on with; the warm-up ends at image 24 and the run at 120.
    ({"schedule__name": "constant", "images": 0, "epochs": 2}, {"images": 0, "epochs": 4}),
    ({"schedule__name": "step", "schedule__milestones": "[60]"}, {"schedule__milestones": "[60, 132]", "images": 180}),
    ({"schedule__name": "constant"}, {"images": 180, "schedule__name": "step", "schedule__milestones": "[120]"}),
    ({"schedule__warmup_images": 119}, {"images": 180, "schedule__warmup_images": 119}),  # decays only afterwards
]


@pytest.mark.slow
@pytest.mark.parametrize(("begun", "longer"), LONGER)
def test_a_finished_run_is_made_longer_bit_for_bit(
    begun: dict[str, object], longer: dict[str, object], tiny_config: Configure, tmp_path: Path
) -> None:
    train(tiny_config(**begun), ALONE)
    config = tiny_config(**begun | longer)
    assert train(config, ALONE) == 0
    whole = tiny_config(**begun | longer, output=tmp_path / "whole")
    train(whole, ALONE)
    assert losses(config.output) == losses(whole.output) and losses(whole.output)[-1][0] > 130
    assert_same_weights(final_weights(config.output), final_weights(whole.output))


@pytest.mark.slow
def test_a_length_that_would_have_changed_the_past_is_refused(tiny_config: Configure, tmp_path: Path) -> None:
    constant = {"output": tmp_path / "constant", "schedule__name": "constant"}
    for begun in ({}, constant):
        train(tiny_config(**begun), ALONE)
    refusals: list[tuple[dict[str, object], str]] = [
        # Linear from 0.05 at image 24 to 0 at the end: the first step after the peak is at 36.
        ({"images": 180}, r"images was 120, now 180; .* another, 0\.04615 at image 36 where it was 0\.04375\. Only"),
        (
            {**constant, "schedule__lr": 0.06},
            r"lr was 0\.05, now 0\.06; .* 0\.0006 at image 0 where it was 0\.0005\. ",
        ),
        ({**constant, "images": 60}, r"it has seen 120 images, and cannot end at 60"),
        ({**constant, "images": 180, "seed": 8}, r"configuration: seed was 7, now 8; images was 120, now 180\. "),
    ]
    for changed, message in refusals:
        with pytest.raises(CheckpointError, match=message):
            train(tiny_config(**changed), ALONE)


def test_resuming_on_other_data_is_refused(tiny_config: Configure, tiny_faces: Path, tmp_path: Path) -> None:
    train(tiny_config(), ALONE)
    other = tmp_path / "other"
    for person in sorted(tiny_faces.iterdir())[:4]:
        (other / person.name).mkdir(parents=True)
        for image in person.iterdir():
            (other / person.name / image.name).write_bytes(image.read_bytes())
    with pytest.raises(CheckpointError, match="other data"):
        train(tiny_config(data__train=other), ALONE)


def repacked(faces: Path, output: Path) -> Path:
    """Writes the files of an image folder into a pack as they are."""
    with RecordPackWriter(output, 32) as writer:
        for label, person in enumerate(sorted(faces.iterdir())):
            for image in sorted(person.iterdir()):
                writer.add(label, image.read_bytes(), image.name)
    return output


def test_the_same_images_elsewhere_are_gone_on_with(tiny_config: Configure, tiny_faces: Path, tmp_path: Path) -> None:
    common = {"schedule__name": "constant", "schedule__warmup_images": 0, "images": 24}
    train(tiny_config(**common), ALONE)
    moved = shutil.copytree(tiny_faces, tmp_path / "moved", copy_function=shutil.copyfile)  # with times of their own
    for images, place in ((48, moved), (72, repacked(tiny_faces, tmp_path / "pack"))):
        assert train(tiny_config(**common | {"images": images, "data__train": place}), ALONE) == 0
        assert load_checkpoint(tmp_path / "run")["training"]["images_seen"] == images


def exchange(first: Path, second: Path) -> None:
    """Exchanges two files."""
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.slow
def test_images_replaced_under_a_run_are_noticed(
    tiny_config: Configure, tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = shutil.copytree(tiny_faces, tmp_path / "faces")
    common = {"schedule__name": "constant", "schedule__warmup_images": 0, "data__train": faces}
    train(tiny_config(**common, images=24), ALONE)
    # The labels are what they were, and so are names and sizes of all files: two images of a person change places.
    exchange(faces / "person_2" / "1.png", faces / "person_2" / "4.png")
    with pytest.raises(CheckpointError, match=r"the images of .*faces are not those .* --data\.accept_changed true"):
        train(tiny_config(**common, images=48), ALONE)
    assert train(tiny_config(**common, images=48, data__accept_changed="true"), ALONE) == 0
    assert "warning    the images of" in capsys.readouterr().err
    # From then on these are the images of the run.
    assert train(tiny_config(**common, images=72), ALONE) == 0
    exchange(faces / "person_2" / "1.png", faces / "person_2" / "4.png")
    with pytest.raises(CheckpointError, match="are not those"):
        train(tiny_config(**common, images=96), ALONE)
    # A checkpoint of an older facekd does not say which they were.
    file = list_checkpoints(tmp_path / "run")[-1]
    content = load_checkpoint(file)
    del content["images_sha256"]
    save_checkpoint(file, content)
    assert train(tiny_config(**common, images=96), ALONE) == 0


def test_a_second_run_in_the_same_folder_is_refused(tiny_config: Configure) -> None:
    config = tiny_config()
    Path(config.output).mkdir()
    with (Path(config.output) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUseError, match="another process is training in this folder"):
            train(config, ALONE)


def test_validators_are_called_logged_and_choose_the_best(tiny_config: Configure) -> None:
    class Fixed:
        name = "fixed"
        accuracies = iter([0.6, 0.9, 0.7])

        def __call__(self, embed, rank, world_size, all_gather):  # type: ignore[no-untyped-def]
            embeddings = all_gather(embed(np.zeros((3, 32, 32, 3), np.uint8)))
            assert embeddings.shape == (3, 16)
            return {"accuracy": next(self.accuracies)}

    config = tiny_config(validation__every_images=48)
    train(config, ALONE, [Fixed()])
    entries = read_log(config.output, "validation")
    assert [(entry["images_seen"], entry["fixed/accuracy"]) for entry in entries] == [(48, 0.6), (96, 0.9), (120, 0.7)]
    assert all(entry["seconds"] >= 0 for entry in entries)
    best = load_checkpoint(Path(config.output) / "checkpoints" / "best.pt")
    assert (best["training"]["images_seen"], best["training"]["best_accuracy"]) == (96, 0.9)


@pytest.mark.slow
def test_the_best_of_another_validation_is_not_kept_for_ever(
    tiny_config: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fixed:
        def __init__(self, name: str, accuracy: float) -> None:
            self.name, self.accuracy = name, accuracy

        def __call__(self, *_: Any) -> dict[str, float]:
            return {"accuracy": self.accuracy}

    def go_on(images: int, pack: str, accuracy: float) -> tuple[int, float]:
        packs = {"validation__packs": f"[{tmp_path / pack}]" if pack else "[]", "diagnostics": "false"}
        config = tiny_config(schedule__name="constant", schedule__warmup_images=0, images=images, **packs)
        assert train(config, ALONE, [Fixed(Path(pack).stem, accuracy)] if pack else []) == 0
        best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")["training"]
        return best["images_seen"], best["best_accuracy"]

    assert go_on(12, "easy.bin", 0.99) == (12, 0.99)
    assert go_on(24, "", 0) == (12, 0.99)
    assert go_on(36, "elsewhere/easy.bin", 0.98) == (12, 0.99)
    assert "warning    best.pt" not in capsys.readouterr().err
    # A harder pack: no checkpoint would be the best again.
    assert go_on(48, "hard.bin", 0.7) == (48, 0.7)
    assert "warning    best.pt has the best accuracy, 0.9900, of another validation" in capsys.readouterr().err
    # Moved away, as that says; and replaced by a run that was killed before its next checkpoint.
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    best.unlink()
    assert go_on(60, "hard.bin", 0.6) == (60, 0.6)
    assert "warning    best.pt, with the best accuracy, 0.7000, is gone" in capsys.readouterr().err
    for path in list_checkpoints(tmp_path / "run")[-2:]:
        path.unlink()
    assert go_on(72, "hard.bin", 0.5) == (72, 0.5)
    assert "best.pt has the accuracy 0.6000, and the best one so far, 0.9900, is of anoth" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"precision": "bf16"},
        {"optimizer__name": "adamw", "schedule__lr": 0.001},
        {"channels_last": "false"},
    ],
)
def test_variants_learn(tiny_config: Configure, overrides: dict[str, object]) -> None:
    config = tiny_config(images=360, **overrides)
    train(config, ALONE)
    values = [loss for _, loss in losses(config.output)]
    assert np.mean(values[-5:]) < 0.85 * values[0]


def test_fp16_on_a_cpu_is_refused(tiny_config: Configure) -> None:
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        train(tiny_config(precision="fp16", device="auto"), ALONE)


def test_images_are_rounded_up_to_whole_batches() -> None:
    assert [round_up(n, 12) for n in (1, 12, 13)] == [12, 12, 24]


def test_one_identity_is_refused_before_anything_is_written(
    tiny_arguments: list[str],
    tmp_path: Path,
    write_records: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = write_records(tmp_path / "pack", [(key, 0, key) for key in range(6)])
    assert run_verb(lambda: main([*tiny_arguments, "--data.train", str(pack)])) == 2
    assert "all images have label 0, and from a single class nothing can be learnt" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_nothing_is_compiled_where_another_user_may_have_put_code(
    tiny_config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchinductor_me").mkdir()
    (tmp_path / "torchinductor_me").chmod(0o777)
    place = SimpleNamespace(default_cache_dir=lambda: str(tmp_path / "torchinductor_me"))
    monkeypatch.setitem(sys.modules, "torch._inductor.runtime.cache_dir_utils", place)
    with pytest.raises(ConfigError, match=r"compile: torch keeps compiled code in .*torchinductor_me and runs"):
        build_state(tiny_config(compile=True), ALONE, SyntheticDataset(6, 6, 32, 1), 120)
