"""Public names of facekd/verification."""

from facekd.verification.metrics import *  # noqa: F403
from facekd.verification.metrics import __all__  # noqa: F401
