"""Public names of facekd/data/datasets."""

from facekd.data.datasets.opening import *  # noqa: F403
from facekd.data.datasets.opening import __all__  # noqa: F401
