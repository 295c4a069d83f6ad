"""Feeds each reader of foreign files its seeds and damaged copies of them; `make fuzz` goes on for as long as told."""

from __future__ import annotations

import pytest

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.kept import kept_inputs
from tests.fuzz.target import Target, TargetRunner, mutations


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_end_in_a_sentence(target: Target) -> None:
    seeds, refused = target.seeds(), target.refused()
    with TargetRunner(target) as runner:
        for seed in seeds:
            assert runner.feed(seed), "a seed is refused: the target tests nothing"
            assert not target.finds or runner.found is not None, "a seed is read as nothing: the target tests nothing"
        assert not any(map(runner.feed, refused)), "what must be refused is read"
        kept = kept_inputs(target.name)[: target.copies]
        for content in (*kept, *mutations([*seeds, *refused], target.copies)):
            runner.feed(content)
