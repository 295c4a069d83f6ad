"""Collects the targets of all files."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets.apart_targets import TARGETS as APART
from tests.fuzz.targets.array_targets import TARGETS as ARRAYS
from tests.fuzz.targets.binary_targets import TARGETS as BINARY
from tests.fuzz.targets.json_targets import TARGETS as JSON
from tests.fuzz.targets.leaf_targets import TARGETS as LEAVES
from tests.fuzz.targets.list_targets import TARGETS as LISTS
from tests.fuzz.targets.model_targets import TARGETS as MODELS
from tests.fuzz.targets.protocol_targets import TARGETS as PROTOCOLS
from tests.fuzz.targets.set_targets import TARGETS as SETS
from tests.fuzz.targets.text_targets import TARGETS as TEXT
from tests.fuzz.targets.weight_targets import TARGETS as WEIGHTS

# Half of their runs get ASCII alone: much else ends early, as no UTF-8.
TEXT_TARGETS: list[Target] = [*TEXT, *LISTS, *PROTOCOLS]
TARGETS: list[Target] = [*TEXT_TARGETS, *JSON, *BINARY, *MODELS, *SETS, *APART, *WEIGHTS, *ARRAYS, *LEAVES]
