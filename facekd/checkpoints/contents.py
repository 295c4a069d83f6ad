"""Names the fields, version and file suffixes of a checkpoint."""

from __future__ import annotations

FORMAT = "facekd-checkpoint"


VERSION = 1


SUFFIX = ".pt"


HEAD_SUFFIX = ".head"  # of the folder beside it that `facekd.checkpoints.head_shards` writes
