"""Tests partial FC: which classes are drawn for a step, and that the others do not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from facekd.distributed import ALONE, World
from facekd.errors import ConfigError, InputError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.class_shards import ClassShards
from facekd.head.classifier import MarginClassifier, build_classifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import CrossEntropy, LazyLogits
from facekd.head.partial_fc import draw_places, partial_fc_step
from facekd.training.optim import OptimizerConfig, build_optimizer, parameter_groups, set_learning_rate

CPU = torch.device("cpu")
CONFIG = HeadConfig(scale=16.0, sharded=True, sample_rate=0.3)


@given(num_classes=st.integers(0, 300), size=st.integers(1, 20))
def test_every_class_is_held_once_and_split_as_torch_chunk_does(num_classes: int, size: int) -> None:
    shards = [ClassShards(num_classes, World(rank, size, CPU)) for rank in range(size)]
    whole = torch.arange(num_classes)
    parts = [shard.own(whole) for shard in shards]
    assert torch.equal(torch.cat(parts), whole)
    if num_classes:
        expected = [part.tolist() for part in whole.chunk(size)]
        assert [part.tolist() for part in parts] == expected + [[]] * (size - len(expected))
        labels = torch.randint(num_classes, (9,))
        columns = torch.stack([shard.columns(labels) for shard in shards])
        assert ((columns >= 0).sum(0) == 1).all()
        owner, column = columns.max(0).indices, columns.max(0).values
        assert [int(parts[o][c]) for o, c in zip(owner, column, strict=True)] == labels.tolist()


@pytest.mark.parametrize("drawn", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_a_label_is_found_among_the_drawn_classes_of_its_process_alone(drawn: list[int]) -> None:
    labels = torch.arange(11)
    for rank in range(3):
        shards = ClassShards(11, World(rank, 3, CPU))
        own = [drawn_class for drawn_class in drawn if shards.start + drawn_class < shards.stop]
        expected = [own.index(label - shards.start) if label - shards.start in own else -1 for label in range(11)]
        assert shards.columns(labels, torch.tensor(own, dtype=torch.int64)).tolist() == expected


def test_a_process_alone_gathers_its_own_rows() -> None:
    shards = ClassShards(11, ALONE)
    rows = embeddings(0, 3)
    assert torch.equal(shards.gather(rows), rows) and shards.own_rows(3) == slice(0, 3)
    shards.gather(rows.requires_grad_()).square().sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, 2 * rows.detach())


@given(num_classes=st.integers(1, 200), rate=st.floats(0.01, 1), seed=st.integers(0, 1000), count=st.integers(0, 30))
def test_the_classes_of_the_batch_are_always_drawn(num_classes: int, rate: float, seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randint(-1, num_classes, (count,), generator=generator)
    drawn = draw_places(columns, num_classes, rate, generator)
    assert torch.equal(drawn, drawn.unique())  # ascending, each once
    assert set(columns[columns >= 0].tolist()) <= set(drawn.tolist())
    assert len(drawn) == max(-(-rate * num_classes // 1), len(columns[columns >= 0].unique()))


def test_the_others_are_drawn_evenly() -> None:
    counts = torch.zeros(50)
    for seed in range(2000):
        counts[draw_places(torch.tensor([3, -1]), 50, 0.2, torch.Generator().manual_seed(seed))] += 1
    assert counts[3] == 2000
    others = torch.cat([counts[:3], counts[4:]])
    assert (others - 2000 * 9 / 49).abs().max() < 5 * (2000 * 9 / 49 * 40 / 49) ** 0.5


def embeddings(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Run:
    """Trains a head of 40 classes with partial FC."""

    def __init__(self, optimizer: str = "sgd", config: HeadConfig = CONFIG, **more: float) -> None:
        torch.manual_seed(0)
        self.head = MarginClassifier(6, 40, config, ClassShards(40, ALONE)).double()
        groups = parameter_groups({"head": self.head}, weight_decay=0.1)
        self.optimizer = build_optimizer(OptimizerConfig(name=optimizer, weight_decay=0.1, **more), groups)  # type: ignore[arg-type]
        set_learning_rate(self.optimizer, 0.05)

    def step(self, images_seen: int, labels: torch.Tensor) -> torch.Tensor:
        """Runs one update; returns the places of the classes that took part."""
        embedding = embeddings(images_seen, len(labels))
        self.optimizer.zero_grad()
        with partial_fc_step([self.head], labels, self.optimizer, 7, images_seen):
            assert self.head.sample is not None
            places = self.head.sample.places_S
            chunked_losses([CrossEntropy(LazyLogits.of(self.head, embedding))], labels)[0].backward()
            self.optimizer.step()
        return places

    def remembered(self) -> dict[str, torch.Tensor]:
        state = self.optimizer.state[self.head.weight]
        return {name: value.clone() for name, value in state.items() if value.shape == self.head.weight.shape}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_left_out_is_left_alone(optimizer: str) -> None:
    run = Run(optimizer)
    for step in range(6):
        before, remembered = run.head.weight.detach().clone(), run.remembered()
        drawn = run.step(step * 8, torch.arange(8) + step)
        left_out = torch.ones(40, dtype=torch.bool)
        left_out[drawn] = False
        assert left_out.sum() == 28
        assert torch.equal(run.head.weight.detach()[left_out], before[left_out])
        assert (run.head.weight.detach() != before)[~left_out].any(1).all()
        for name, value in remembered.items():
            assert torch.equal(run.remembered()[name][left_out], value[left_out]), name
    assert run.optimizer.param_groups[0]["params"] == [run.head.weight]
    assert list(run.optimizer.state) == [run.head.weight] and run.head.sample is None


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_drawing_all_classes_is_training_without_drawing(optimizer: str) -> None:
    drawn, plain = Run(optimizer, HeadConfig(scale=16.0, sharded=True, sample_rate=1.0)), Run(optimizer)
    for step in range(5):
        labels = torch.arange(8) * 3 + step
        assert len(drawn.step(step, labels)) == 40
        embedding = embeddings(step, 8)
        plain.optimizer.zero_grad()
        functional.cross_entropy(plain.head(embedding, labels), labels).backward()
        plain.optimizer.step()
    torch.testing.assert_close(drawn.head.weight, plain.head.weight)
    torch.testing.assert_close(drawn.remembered(), plain.remembered())


def test_the_loss_is_that_of_the_drawn_classes() -> None:
    run = Run()
    labels, embedding = torch.tensor([3, 17, 39]), embeddings(0, 3)
    with partial_fc_step([run.head], labels, run.optimizer, 7, 0):
        assert run.head.sample is not None
        places = run.head.sample.places_S
        (loss,) = chunked_losses([CrossEntropy(LazyLogits.of(run.head, embedding))], labels, chunk_size=5)
    small = MarginClassifier(6, len(places), CONFIG).double()
    with torch.no_grad():
        small.weight.copy_(run.head.weight[places])
    renumbered = torch.searchsorted(places, labels)
    torch.testing.assert_close(loss, functional.cross_entropy(small(embedding, renumbered), renumbered))


def test_the_draw_follows_from_the_seed_and_images_seen() -> None:
    labels = torch.arange(8)
    assert torch.equal(Run().step(16, labels), Run().step(16, labels))
    assert not torch.equal(Run().step(16, labels), Run().step(24, labels))
    # Runs of earlier versions go on with the same draws.
    word = int(np.random.SeedSequence([7, 16, 0, 0x5EED]).generate_state(1, np.uint64)[0])
    expected = draw_places(labels, 40, CONFIG.sample_rate, torch.Generator().manual_seed(word >> 1))
    assert torch.equal(Run().step(16, labels), expected)


def test_a_step_that_fails_changes_nothing() -> None:
    run = Run()
    run.step(0, torch.arange(8))
    before, remembered = run.head.weight.detach().clone(), run.remembered()
    with pytest.raises(ZeroDivisionError), partial_fc_step([run.head], torch.arange(8), run.optimizer, 7, 8):
        assert run.head.sample is not None
        run.head.sample.weight_SD.data.fill_(1)
        raise ZeroDivisionError
    assert torch.equal(run.head.weight, before)
    torch.testing.assert_close(run.remembered(), remembered, rtol=0, atol=0)
    assert list(run.optimizer.state) == [run.head.weight] and run.head.sample is None


def test_a_label_of_no_class_is_named() -> None:
    head = MarginClassifier(6, 40, CONFIG, ClassShards(40, ALONE))
    with pytest.raises(InputError, match="40"):
        chunked_losses([CrossEntropy(LazyLogits.of(head, torch.randn(2, 6)))], torch.tensor([0, 40]))


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"head\.sharded"):
        HeadConfig(sample_rate=0.5)
    with pytest.raises(ConfigError, match="outside"):
        HeadConfig(sample_rate=0, sharded=True)
    with pytest.raises(ConfigError, match="no effect"):
        HeadConfig(kind="linear", sharded=True)
    with pytest.raises(ConfigError, match=r"head\.sample_rate = 0\.5 has no effect with head\.kind = 'linear'"):
        HeadConfig(kind="linear", sample_rate=0.5)


def test_fresh_centres_do_not_depend_on_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.head.classifier.ROWS_CHUNK", 32)
    torch.manual_seed(3)
    whole = build_classifier(HeadConfig(), 20, 117).weight
    parts = []
    for rank in range(3):
        torch.manual_seed(3)
        parts.append(build_classifier(HeadConfig(sharded=True), 20, 117, World(rank, 3, CPU)).weight)
    assert torch.equal(torch.cat(parts), whole)
