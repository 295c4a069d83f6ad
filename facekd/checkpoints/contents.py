"""Names the fields, version and file suffixes of a checkpoint."""

from __future__ import annotations

from facekd.errors import FacekdError

FORMAT = "facekd-checkpoint"


VERSION = 1


SUFFIX = ".pt"


HEAD_SUFFIX = ".head"  # of the folder beside it that `facekd.checkpoints.head_shards` writes


class CheckpointError(FacekdError):
    """A checkpoint that is absent, damaged, unsafe, or of another architecture."""
