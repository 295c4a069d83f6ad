"""Tests that the soak finds what grows, and only that, without an hour of training."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import FacekdError

ROOT = Path(__file__).resolve().parent.parent
STEADY = {
    "main_mb": 900.0,
    "workers_mb": 300.0,
    "shared_mb": 6.0,
    "files": 60,
    "threads": 20,
    "processes": 4,
    "folder_files": 8,
    "images_per_cpu_second": 40.0,
    "images_per_second": 70.0,
}


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import soak  # type: ignore[import-not-found]

    yield soak
    for name in ("soak", "measuring", "generated_pack"):
        sys.modules.pop(name, None)


def an_hour(**growth: float) -> list[dict[str, float]]:
    """Samples of an hour: noise, caches that fill up in the first minutes, and peaks while checkpoints are saved."""
    random = np.random.default_rng(0)
    samples = []
    for second in range(0, 3600, 10):
        sample = {name: value * (1 + 0.01 * random.standard_normal()) for name, value in STEADY.items()}
        sample |= {name: float(STEADY[name]) for name in ("files", "threads", "processes", "folder_files")}
        sample["queued_share"] = 0.02
        sample["main_mb"] -= 200 * np.exp(-second / 200)
        if second % 70 == 0:
            sample |= {"main_mb": sample["main_mb"] + 80, "files": sample["files"] + 2, "folder_files": 9.0}
        for name, by_the_end in growth.items():
            sample[name] += by_the_end * second / 3600
        samples.append({"seconds": float(second), **sample})
    return samples


@pytest.mark.parametrize(
    "growth",
    [
        {},
        {"main_mb": 40},
        {"workers_mb": 20},
        {"shared_mb": 4},
        {"files": 3},
        {"threads": 3},
        {"processes": 2},
        {"folder_files": 3},
        {"images_per_second": -30},
        {"images_per_cpu_second": -10},
    ],
    ids=str,
)
def test_what_grows_is_found_and_nothing_else(soak, growth):
    found = {verdict["series"] for verdict in soak.judge(an_hour(**growth)) if not verdict["is_fine"]}
    assert found == set(growth)


def test_becoming_faster_and_smaller_is_fine(soak):
    assert all(v["is_fine"] for v in soak.judge(an_hour(images_per_second=30, main_mb=-300, files=-5)))


def test_the_clock_is_not_judged_on_a_busy_machine(soak):
    verdicts = soak.judge(an_hour(images_per_second=-30, queued_share=0.8))
    assert [v["series"] for v in verdicts if v["is_fine"] is None] == ["images_per_second"]
    assert all(v["is_fine"] for v in verdicts if v["series"] != "images_per_second")
    assert "not judged" in soak.table(verdicts, 60, 360).markdown()


def test_too_few_samples_are_refused(soak):
    with pytest.raises(FacekdError, match=r"samples after the warm-up are too few; raise --minutes"):
        soak.judge(an_hour()[:9])


def test_what_is_not_measured_is_not_fine(soak):
    samples = [{**sample, "shared_mb": 0.0} for sample in an_hour()]  # a kernel that does not tell it
    with pytest.raises(FacekdError, match="shared memory: is 0 in most samples, so it was not measured"):
        soak.judge(samples)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_sample_is_of_this_process(soak, tmp_path):
    before = soak.Sampler(os.getpid(), tmp_path, 10.0).sample()
    mapped = mmap.mmap(
        -1, 1 << 24, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # new memory: the allocator may have some left over
    mapped.write(b"1" * (1 << 24))
    kept = [open(os.devnull) for _ in range(5)]  # noqa: SIM115, PTH123
    after = soak.Sampler(os.getpid(), tmp_path, 10.0).sample()
    assert after["files"] - before["files"] == 5
    assert 10 < after["main_mb"] - before["main_mb"] < 40
    for file in (*kept, mapped):
        file.close()
