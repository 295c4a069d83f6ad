"""Collects the targets of all files."""

from __future__ import annotations

from tests.fuzz.apart_targets import TARGETS as APART
from tests.fuzz.array_targets import TARGETS as ARRAYS
from tests.fuzz.binary_targets import TARGETS as BINARY
from tests.fuzz.json_targets import TARGETS as JSON
from tests.fuzz.leaf_targets import TARGETS as LEAVES
from tests.fuzz.list_targets import TARGETS as LISTS
from tests.fuzz.model_targets import TARGETS as MODELS
from tests.fuzz.protocol_targets import TARGETS as PROTOCOLS
from tests.fuzz.set_targets import TARGETS as SETS
from tests.fuzz.target import Target
from tests.fuzz.text_targets import TARGETS as TEXT
from tests.fuzz.weight_targets import TARGETS as WEIGHTS

# Half of their runs get ASCII alone: much else ends early, as no UTF-8.
TEXT_TARGETS: list[Target] = [*TEXT, *LISTS, *PROTOCOLS]
TARGETS: list[Target] = [*TEXT_TARGETS, *JSON, *BINARY, *MODELS, *SETS, *APART, *WEIGHTS, *ARRAYS, *LEAVES]
