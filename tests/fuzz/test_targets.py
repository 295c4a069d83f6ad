"""Feeds each reader of foreign files its seeds and damaged copies of them; `make fuzz` goes on for as long as told."""

from __future__ import annotations

import pytest

from tests.fuzz.binary_targets import TARGETS as BINARY
from tests.fuzz.model_targets import TARGETS as MODELS
from tests.fuzz.set_targets import TARGETS as SETS
from tests.fuzz.target import Target, TargetRunner, mutations
from tests.fuzz.text_targets import TARGETS as TEXT


@pytest.mark.parametrize("target", [*TEXT, *BINARY, *MODELS, *SETS], ids=lambda target: target.name)
def test_damaged_files_end_in_a_sentence(target: Target) -> None:
    seeds = target.seeds()
    with TargetRunner(target) as runner:
        assert all(runner.feed(seed) for seed in seeds), "a seed is refused: the target tests nothing"
        for content in mutations(seeds, target.copies):
            runner.feed(content)
