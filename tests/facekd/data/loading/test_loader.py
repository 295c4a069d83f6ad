"""The loader: the same batches from any number and kind of workers, at any world size, and after a resume."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facekd.data.datasets import FaceDataset, RecordDataset
from facekd.data.loading import loader as loader_module
from facekd.data.loading.loader import Batch, make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.errors import DataError, TrainingError, WorkerError, run_verb
from facekd.images.augmentation import Augmentation, augment
from facekd.images.model_input import flip_mask
from facekd.utils.processes import children
from tests.facekd.data.datasets.test_datasets import BROKEN

EVERYTHING = Augmentation(crop=0.5, low_resolution=0.5, color_jitter=0.5, blur=0.5, jpeg=0.5)
SEED = 9


@pytest.fixture(autouse=True)
def no_waiting_for_ever():
    """A worker that hangs is killed, which fails the test, rather than hang the suite."""

    def kill_workers() -> None:
        for process in multiprocessing.active_children():
            process.kill()

    watchdog = threading.Timer(60, kill_workers)
    watchdog.daemon = True
    watchdog.start()
    yield
    watchdog.cancel()


def batches_of(
    dataset: FaceDataset,
    augmentation: Augmentation | None = EVERYTHING,
    workers: int = 0,
    start_method=None,
    **sampling,
) -> list[Batch]:
    sampling = {"global_batch_size": 6, "total_images": 30} | sampling
    sampler = PositionSampler(FullShuffle(len(dataset), SEED), **sampling)
    return list(make_loader(dataset, sampler, augmentation, SEED, workers, start_method=start_method))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
        assert one.bad_records == other.bad_records


@pytest.fixture
def dataset(insightface_pack) -> RecordDataset:
    return RecordDataset(insightface_pack(), 32)


def test_a_batch_holds_what_sampler_dataset_and_augmentation_say(dataset):
    batches = batches_of(dataset)
    assert len(batches) == 5
    for number, batch in enumerate(batches):
        positions = np.arange(6) + 6 * number
        indices = PositionSampler(FullShuffle(12, SEED), 6).indices_at(positions)
        images, labels = dataset.load(indices)
        augment(EVERYTHING, images, SEED, positions)
        assert batch.positions.tolist() == positions.tolist()
        assert batch.labels.tolist() == labels.tolist()
        assert batch.flip.tolist() == flip_mask(SEED, positions).tolist()
        np.testing.assert_array_equal(batch.images.numpy(), images)
        assert [t.dtype for t in batch[:4]] == [torch.uint8, torch.int64, torch.int64, torch.bool]


def test_without_augmentation_the_images_are_the_files_and_only_flips_remain(dataset):
    plain = batches_of(dataset, None)
    for batch in plain:
        indices = PositionSampler(FullShuffle(12, SEED), 6).indices_at(batch.positions.numpy())
        np.testing.assert_array_equal(batch.images.numpy(), dataset.load(indices)[0])
    assert any(batch.flip.any() for batch in plain)
    assert not any(batch.flip.any() for batch in batches_of(dataset, Augmentation(flip=False)))


@pytest.mark.parametrize("workers", [1, 2])
def test_forked_workers_give_the_batches_of_none(dataset, workers):
    assert_same(batches_of(dataset, workers=workers, start_method="fork"), batches_of(dataset))


def test_workers_may_be_forked_while_opencv_has_threads_here(dataset):
    """A forked process that sets OpenCV's number of threads hangs or crashes if it has inherited a pool of them."""
    threads_before = cv2.getNumThreads()
    large = np.zeros((600, 600, 3), np.uint8)
    sampler = PositionSampler(FullShuffle(12, SEED), 6, total_images=12)
    try:
        cv2.setNumThreads(8)
        for _ in range(8):
            loader = make_loader(dataset, sampler, EVERYTHING, SEED, 2, start_method="fork")
            cv2.GaussianBlur(large, (31, 31), 5.0)  # large enough to be shared among threads
            assert_same(list(loader), batches_of(dataset)[:2])
        assert cv2.getNumThreads() == 8
    finally:
        cv2.setNumThreads(threads_before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start_method", "workers"),
    [
        ("spawn", 1),
        ("spawn", 2),
        ("forkserver", 2),
    ],
)
def test_workers_started_afresh_give_the_batches_of_none(dataset, start_method, workers):
    assert_same(batches_of(dataset, workers=workers, start_method=start_method), batches_of(dataset))


def test_several_loaders_read_one_file_at_once(dataset):
    """The shared file offset of apache/mxnet#9974: forked readers of one open file must not disturb each other."""
    expected = batches_of(dataset, total_images=240)
    sampler = PositionSampler(FullShuffle(12, SEED), 6, total_images=240)
    loaders = [iter(make_loader(dataset, sampler, EVERYTHING, SEED, 2, start_method="fork")) for _ in range(2)]
    for batches in zip(expected, *loaders, strict=True):
        assert_same([batches[1]], [batches[0]])
        assert_same([batches[2]], [batches[0]])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_read_the_batches_of_one_process(dataset, world_size):
    ranks = [batches_of(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [
        Batch(*(torch.cat(tensors) for tensors in zip(*(batch[:4] for batch in step), strict=True)), [])
        for step in zip(*ranks, strict=True)
    ]
    assert_same(together, batches_of(dataset))


@pytest.mark.parametrize("done", [0, 6, 18, 30])
def test_a_resumed_loader_goes_on_in_the_middle_of_an_epoch(dataset, done):
    rest = batches_of(dataset, workers=2, start_method="fork", images_seen=done)
    assert_same(rest, batches_of(dataset)[done // 6 :])


def test_iterating_again_starts_again_and_the_length_is_the_samplers(dataset):
    loader = make_loader(dataset, PositionSampler(FullShuffle(12, SEED), 6, total_images=30), EVERYTHING, SEED)
    assert len(loader) == 5
    assert_same(list(loader), list(loader))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_the_training_process_are_not_touched(dataset, workers):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    batches_of(dataset, workers=workers, start_method="fork")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_records_arrive_with_their_batch_once_for_each_time_they_were_due(insightface_pack, workers):
    dataset = RecordDataset(insightface_pack({4: BROKEN}), 32, on_bad_record="skip")
    batches = batches_of(dataset, workers=workers, start_method="fork", total_images=36)
    with_bad = [batch for batch in batches if batch.bad_records]
    assert sum(len(batch.bad_records) for batch in batches) == 3  # 36 images are three epochs
    for batch in with_bad:
        assert 4 in PositionSampler(FullShuffle(12, SEED), 6).indices_at(batch.positions.numpy())
        assert all("record 5 at offset" in line for line in batch.bad_records)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_in_a_worker_is_reported_as_cleanly_as_in_the_main_process(insightface_pack, workers):
    dataset = RecordDataset(insightface_pack({4: BROKEN}), 32)
    with pytest.raises(
        DataError, match=r"^/.*train\.rec: record 5 at offset [\d,]+: .*on_bad_record to skip$"
    ) as raised:
        batches_of(dataset, workers=workers, start_method="fork")
    assert "Traceback" not in str(raised.value)
    assert not multiprocessing.active_children()


def test_a_defect_keeps_its_traceback(dataset):
    dataset.load = None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="not callable") as raised:
        batches_of(dataset, workers=1, start_method="fork")
    assert "self.dataset.load" in str(raised.value.__cause__)


class Blank:
    """A data set of four black images."""

    name, num_classes, image_size = "blank", 1, 8
    labels = np.zeros(4, np.int64)

    def __len__(self) -> int:
        return 4

    def load(self, indices, crops=None, out=None):
        out[:] = 0
        return out, np.zeros(len(indices), np.int64)

    def describe(self, index: int) -> str:
        return ""

    def take_bad_records(self) -> list[str]:
        return []


class Dying(Blank):
    """One whose reading ends the process, as the kernel does when memory runs out."""

    def load(self, indices, crops=None, out=None):
        os.kill(os.getpid(), signal.SIGKILL)


class Shrinking(Blank):
    """One whose file is cut off while it is read."""

    def load(self, indices, crops=None, out=None):
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(1 << 20))
            file.flush()
            mapped = np.memmap(file.name, np.uint8, "r")
            os.truncate(file.name, 0)
            return out, np.full(len(indices), mapped.sum())


class Stopping(Blank):
    """One whose reading stops the process, as a debugger or a batch system does."""

    def load(self, indices, crops=None, out=None):
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().load(indices, crops, out)


class Complaining(Blank):
    """One with much to say of every batch."""

    def take_bad_records(self) -> list[str]:
        return ["x" * 500_000]


def test_a_killed_worker_is_explained():
    with pytest.raises(WorkerError, match=r"SIGKILL, as the system does when memory has run out\. .*--shm-size"):
        batches_of(Dying(), workers=1, start_method="fork")


def test_a_worker_whose_file_becomes_shorter_is_explained(capfd):
    with pytest.raises(WorkerError, match=r"was ended by SIGBUS, as the system does when a file has become shorter"):
        run_verb_of(lambda: batches_of(Shrinking(), workers=1, start_method="fork"))
    assert not capfd.readouterr().err  # the worker itself says nothing


def run_verb_of(work):
    """Runs `work` as a verb is run, and raises what it raises."""
    raised = []

    def main() -> None:
        try:
            work()
        except WorkerError as error:
            raised.append(error)

    try:
        assert run_verb(main) == 0
    finally:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
    raise raised[0]


def test_a_stopped_worker_is_given_up_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("FACEKD_SECONDS_UNTIL_GIVEN_UP", "1")
    said = (
        r"worker 0 of the loader \(process (\d+)\) has not answered for \d+ s: it is stopped, and `kill -CONT \1` lets"
    )
    with pytest.raises(WorkerError, match=said):
        batches_of(Stopping(), workers=1, start_method="fork")
    assert re.search(rf"{said} it go on; waiting", capsys.readouterr().err)
    assert not multiprocessing.active_children()


def test_a_stopped_worker_that_goes_on_is_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(children, "SECONDS_UNTIL_SAID", 0.1)

    def let_all_go_on() -> None:
        while not is_over.wait(0.2):
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGCONT)  # type: ignore[arg-type]

    is_over = threading.Event()
    threading.Thread(target=let_all_go_on, daemon=True).start()
    assert len(batches_of(Stopping(), workers=1, start_method="fork")) == 5
    is_over.set()


def test_too_little_shared_memory_is_explained(dataset, monkeypatch):
    def refuse(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    assert len(batches_of(dataset)) == 5  # without workers none is shared
    with pytest.raises(TrainingError, match=r"need 0 MB of shared memory.*No space left on device.*--shm-size"):
        batches_of(dataset, workers=2, start_method="fork")


class Unsendable(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


@pytest.mark.parametrize("error", [Unsendable("one", "other"), ValueError(lambda: None)])
def test_a_defect_that_cannot_be_sent_is_told(dataset, error):
    def fail(*_):
        raise error

    dataset.load = fail  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=type(error).__name__) as raised:
        batches_of(dataset, workers=1, start_method="fork")
    assert "raise error" in str(raised.value.__cause__)


def test_a_worker_that_leaves_by_itself_is_not_said_to_lack_memory(dataset):
    dataset.load = lambda *_: os._exit(3)  # type: ignore[assignment]
    with pytest.raises(WorkerError, match=r"worker 0 of the loader .* ended with status 3; what it printed") as raised:
        batches_of(dataset, workers=1, start_method="fork")
    assert "memory" not in str(raised.value)


def test_leaving_early_ends_the_workers(dataset):
    sampler = PositionSampler(FullShuffle(12, SEED), 6)  # without end
    batches = iter(make_loader(dataset, sampler, workers=2, start_method="fork"))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("arguments", [{"workers": -1}, {"workers": 2, "prefetch": 0}])
def test_numbers_that_cannot_work_are_refused(dataset, arguments):
    with pytest.raises(TrainingError, match="workers must be 0 or more and prefetch 1 or more"):
        make_loader(dataset, PositionSampler(FullShuffle(12, SEED), 6), **arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_memory_of_a_batch_is_used_again_once_nobody_holds_it(dataset, workers):
    expected = batches_of(dataset, total_images=120)
    sampler = PositionSampler(FullShuffle(12, SEED), 6, total_images=120)
    places = set()
    for ours, theirs in zip(make_loader(dataset, sampler, EVERYTHING, SEED, workers), expected, strict=True):
        assert_same([ours], [theirs])
        places.add(ours.images.data_ptr())
    assert len(places) <= max(1, 2 * workers) + 2 < len(expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_of_the_images_keeps_them_from_being_overwritten(dataset, workers):
    expected = batches_of(dataset, total_images=120)
    sampler = PositionSampler(FullShuffle(12, SEED), 6, total_images=120)
    views = [batch.images[2:4, 5:] for batch in make_loader(dataset, sampler, EVERYTHING, SEED, workers)]
    for view, batch in zip(views, expected, strict=True):
        assert torch.equal(view, batch.images[2:4, 5:])


GPU = torch.device("cuda")


class Sender:
    """What `GpuPrefetcher` does, without a GPU: notes in which thread, and what had arrived when."""

    def __init__(self, device: torch.device) -> None:
        self.threads: set[int] = set()

    def send_next(self, batches):
        self.threads.add(threading.get_ident())
        batch = next(batches, None)
        return None if batch is None else (batch._replace(on_device=(batch.images.clone(), batch.flip.clone())), "sent")

    def arrived(self, batch, event):
        assert event == "sent" and self.threads and threading.get_ident() not in self.threads
        return batch


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_sent_ahead_by_a_thread(dataset, workers, monkeypatch):
    monkeypatch.setattr(loader_module, "GpuPrefetcher", Sender)
    sampler = PositionSampler(FullShuffle(12, SEED), 6, total_images=60)
    sent = list(make_loader(dataset, sampler, EVERYTHING, SEED, workers, device=GPU))
    expected = batches_of(dataset, total_images=60)
    assert_same(sent, expected)
    for batch, plain in zip(sent, expected, strict=True):
        assert batch.on_device is not None and plain.on_device is None
        assert torch.equal(batch.on_device[0], plain.images) and torch.equal(batch.on_device[1], plain.flip)


def test_leaving_early_while_a_batch_is_being_sent_ends_the_workers(dataset, monkeypatch):
    monkeypatch.setattr(loader_module, "GpuPrefetcher", Sender)
    batches = iter(make_loader(dataset, PositionSampler(FullShuffle(12, SEED), 6), workers=2, device=GPU))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_bad_record_met_ahead_is_reported_when_it_is_due(insightface_pack, monkeypatch):
    monkeypatch.setattr(loader_module, "GpuPrefetcher", Sender)
    dataset = RecordDataset(insightface_pack({4: BROKEN}), 32)
    due = next(
        number
        for number, sampled in enumerate(PositionSampler(FullShuffle(12, 1), 2, total_images=12))
        if 4 in sampled.indices.tolist()
    )
    assert due > 0
    batches = iter(make_loader(dataset, PositionSampler(FullShuffle(12, 1), 2), seed=1, workers=2, device=GPU))
    assert len([next(batches) for _ in range(due)]) == due
    with pytest.raises(DataError, match="record 5 at offset"):
        next(batches)


@pytest.mark.slow
def test_workers_end_with_a_program_that_leaves_its_loop_or_is_killed(insightface_pack):
    """The workers ignore the signal by which Python ends such processes, and would otherwise be waited for."""
    program = f"""
import os, sys
from facekd.data.datasets import RecordDataset
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler

if __name__ == "__main__":
    sampler = PositionSampler(FullShuffle(12, 0), 6)
    loader = make_loader(RecordDataset({str(insightface_pack())!r}, 32), sampler, workers=2, start_method="fork")
    batches, others = iter(loader), iter(loader)  # workers of the second inherit what the first has open
    next(batches), next(others)
    import multiprocessing
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)
"""
    for how in ("left", "killed"):
        finished = subprocess.run(
            [sys.executable, "-c", program, how], stdout=subprocess.PIPE, text=True, timeout=60, check=False
        )
        assert finished.returncode == (0 if how == "left" else -signal.SIGKILL)
        pids = [int(word) for word in finished.stdout.split()]
        assert len(pids) == 4
        for _ in range(100):
            if not any(is_alive(pid) for pid in pids):
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"of {pids} some are still there")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, FileNotFoundError):
        return False


def test_a_report_longer_than_a_pipe_holds_blocks_nobody():
    """What is wrong with a batch of bad records is longer than the system keeps between two processes."""
    dataset = Complaining()
    sampler = PositionSampler(FullShuffle(4, SEED), 4, total_images=40)
    batches = list(make_loader(dataset, sampler, Augmentation(flip=False), SEED, 2, start_method="fork"))
    assert [len(batch.bad_records[0]) for batch in batches] == [500_000] * 10
