"""Collects the targets of all files."""

from __future__ import annotations

from tests.fuzz.binary_targets import TARGETS as BINARY
from tests.fuzz.model_targets import TARGETS as MODELS
from tests.fuzz.set_targets import TARGETS as SETS
from tests.fuzz.target import Target
from tests.fuzz.text_targets import TARGETS as TEXT

TARGETS: list[Target] = [*TEXT, *BINARY, *MODELS, *SETS]
