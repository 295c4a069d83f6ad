"""Public names of facekd/embedder."""

from facekd.embedder.opening import *  # noqa: F403
from facekd.embedder.opening import __all__  # noqa: F401
