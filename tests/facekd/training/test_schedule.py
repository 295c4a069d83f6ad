"""Learning rates as a pure function of images seen: closed forms, torch's own schedulers, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from facekd.errors import ConfigError
from facekd.training.schedule import ScheduleConfig, first_change, learning_rate

TOTAL = 10_000

schedules = st.builds(
    lambda name, lr, final, warmup, start, power: ScheduleConfig(
        name=name,
        lr=lr,
        final_lr=0.0 if name in ("step", "constant") else final * lr,
        warmup_images=warmup,
        warmup_start=start,
        milestones=(0.6, 0.8) if name == "step" else (),
        power=power,
    ),
    st.sampled_from(["linear", "cosine", "polynomial", "step", "constant"]),
    st.floats(1e-4, 10),
    st.floats(0, 1),
    st.sampled_from([0, 1, 777, 5000]),
    st.floats(0.001, 0.9),
    st.floats(0.5, 4),
)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(), {0: 0.1, 2500: 0.075, 5000: 0.05, 9900: 0.001, 10_000: 0.0, 20_000: 0.0}),
        (ScheduleConfig(final_lr=0.02), {0: 0.1, 5000: 0.06, 10_000: 0.02}),
        (ScheduleConfig(name="cosine"), {0: 0.1, 2500: 0.05 * (1 + math.sqrt(0.5)), 5000: 0.05, 10_000: 0.0}),
        (ScheduleConfig(name="cosine", final_lr=0.01), {0: 0.1, 5000: 0.055, 10_000: 0.01}),
        (ScheduleConfig(name="polynomial"), {0: 0.1, 5000: 0.025, 10_000: 0.0}),
        (ScheduleConfig(name="constant"), {0: 0.1, 9999: 0.1, 20_000: 0.1}),
        (
            ScheduleConfig(name="step", milestones=(0.5, 0.75)),
            {0: 0.1, 4999: 0.1, 5000: 0.01, 7499: 0.01, 7500: 0.001, 10_000: 0.001},
        ),
        (ScheduleConfig(name="step", milestones=(300, 9000), gamma=0.5), {299: 0.1, 300: 0.05, 9000: 0.025}),
        # Warm-up over 1000 images from a tenth of the peak; the decay runs over the 9000 that are left.
        (
            ScheduleConfig(warmup_images=1000, warmup_start=0.1),
            {0: 0.01, 500: 0.055, 1000: 0.1, 5500: 0.05, 10_000: 0.0},
        ),
        (ScheduleConfig(name="step", milestones=(0.5,), warmup_images=1000), {0: 0.001, 4999: 0.1, 5000: 0.01}),
    ],
)
def test_closed_forms(config, expected):
    assert {image: learning_rate(config, image, TOTAL) for image in expected} == pytest.approx(expected)


@given(config=schedules, image=st.integers(0, 2 * TOTAL))
def test_never_above_the_peak_nor_below_zero(config, image):
    assert 0 <= learning_rate(config, image, TOTAL) <= config.lr * (1 + 1e-12)


@given(config=schedules, images=st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)))
def test_rises_through_the_warm_up_and_falls_after_it(config, images):
    earlier, later = sorted(images)
    assume(earlier < later)
    before, after = (learning_rate(config, image, TOTAL) for image in (earlier, later))
    if later <= config.warmup_images:
        assert before < after
    if earlier >= config.warmup_images:
        assert before >= after


@given(config=schedules)
def test_the_first_step_of_a_warm_up_is_above_zero_and_below_the_peak(config):
    first = learning_rate(config, 0, TOTAL)
    if config.warmup_images:
        assert 0 < first < config.lr
        assert first == pytest.approx(config.lr * config.warmup_start)
    else:
        assert first == config.lr
    assert learning_rate(config, config.warmup_images, TOTAL) == config.lr


@given(config=schedules, images=st.lists(st.integers(0, TOTAL), min_size=1, max_size=5))
def test_depends_on_the_clock_alone(config, images):
    forwards = [learning_rate(config, image, TOTAL) for image in images]
    assert [learning_rate(config, image, TOTAL) for image in reversed(images)] == forwards[::-1]


@given(config=schedules, factor=st.integers(2, 100))
def test_a_run_stretched_in_images_has_the_same_shape(config, factor):
    stretched = copy.copy(config)
    object.__setattr__(stretched, "warmup_images", config.warmup_images * factor)
    for image in range(0, TOTAL, 997):
        same = learning_rate(stretched, image * factor, TOTAL * factor)
        assert same == pytest.approx(learning_rate(config, image, TOTAL), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("config", "scheduler"),
    [
        (ScheduleConfig(), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 50)),
        (ScheduleConfig(name="cosine", final_lr=0.004), lambda o: lr_scheduler.CosineAnnealingLR(o, 50, 0.004)),
        (ScheduleConfig(name="polynomial", power=3.0), lambda o: lr_scheduler.PolynomialLR(o, 50, 3.0)),
        (
            ScheduleConfig(name="step", milestones=(0.5, 0.8), gamma=0.3),
            lambda o: lr_scheduler.MultiStepLR(o, [25, 40], 0.3),
        ),
        (
            ScheduleConfig(name="constant", warmup_images=200 * 20, warmup_start=0.2),
            lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 20),
        ),
    ],
)
def test_equals_the_scheduler_of_torch_step_by_step(config, scheduler):
    batch, steps = 200, 50
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    theirs = scheduler(optimizer)
    for step in range(steps):
        assert learning_rate(config, step * batch, steps * batch) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "lineer"}, "schedule.name = 'lineer': choose one of linear"),
        ({"lr": 0.0}, "schedule.lr = 0.0"),
        ({"lr": math.nan}, "schedule.lr = nan"),
        ({"final_lr": 0.2}, "schedule.final_lr = 0.2.*schedule.lr"),
        ({"final_lr": -0.1}, "schedule.final_lr = -0.1"),
        ({"warmup_images": -1}, "schedule.warmup_images = -1"),
        ({"warmup_start": 0.0}, "schedule.warmup_start = 0.0"),
        ({"warmup_start": 1.0}, "schedule.warmup_start = 1.0"),
        ({"gamma": 1.0}, "schedule.gamma"),
        ({"power": 0.0}, "schedule.power"),
        ({"name": "step"}, "needs schedule.milestones"),
        ({"milestones": (0.5,)}, "schedule.milestones has no effect with schedule.name = 'linear'"),
        ({"name": "step", "milestones": (0.5, 0.5)}, "rising order"),
        ({"name": "step", "milestones": (0.5, 0.2)}, "rising order"),
        ({"name": "step", "milestones": (0.5, 9000)}, "mixes shares"),
        ({"name": "step", "milestones": (-0.5,)}, "positive"),
        ({"name": "step", "milestones": (0.5,), "final_lr": 0.01}, "schedule.final_lr has no effect"),
    ],
)
def test_schedules_that_contradict_themselves(values, message):
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**values)


@pytest.mark.parametrize(
    ("config", "total", "message"),
    [
        (ScheduleConfig(warmup_images=1000), 1000, "warmup_images = 1000 does not fit in a run of 1,000 images"),
        (ScheduleConfig(name="step", milestones=(1000,)), 1000, "milestones: 1000 is image 1000"),
        (ScheduleConfig(name="step", milestones=(0.1,), warmup_images=200), 1000, "0.1 is image 100.*image 200"),
        (ScheduleConfig(), 0, "a run of 0 images"),
    ],
)
def test_schedules_that_do_not_fit_the_run(config, total, message):
    with pytest.raises(ConfigError, match=message):
        config.check(total)
    with pytest.raises(ConfigError, match=message):
        learning_rate(config, 0, total)


def test_a_clock_below_zero():
    with pytest.raises(ConfigError, match="images_seen = -1"):
        learning_rate(ScheduleConfig(), -1, 10)


@given(schedules, st.integers(1, 3 * TOTAL), st.integers(10, 3000))
def test_the_first_change_is_where_the_rates_part(config, longer, step):
    assume(longer > 1 and all(config.warmup_images < share * longer for share in (1, *config.milestones)))
    steps = range(0, TOTAL, step)
    apart = [i for i in steps if learning_rate(config, i, TOTAL) != learning_rate(config, i, longer)]
    assert first_change(config, TOTAL, config, longer, steps) == (apart[0] if apart else None)
