"""Trains, distils, exports and evaluates face-verification models.

The names below are imported when they are first used: `import facekd` itself imports neither torch nor onnxruntime.
"""

import os
from typing import TYPE_CHECKING

from facekd.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from facekd.api.evaluation import Results, evaluate_ijbc, evaluate_lfw
    from facekd.api.faces import Face, Model, detect, load_model, similarity
    from facekd.api.training import Run, distill, train

__version__ = "0.1.0"
__all__ = [
    "Face",
    "Model",
    "Results",
    "Run",
    "__version__",
    "detect",
    "distill",
    "evaluate_ijbc",
    "evaluate_lfw",
    "load_model",
    "similarity",
    "train",
]

# onnxruntime's builds report to Microsoft and keep an identifier of the user, unless this is set before their import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_FACES, _EVALUATION, _TRAINING = "facekd.api.faces", "facekd.api.evaluation", "facekd.api.training"
__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Face", "Model", "detect", "load_model", "similarity"), _FACES),
        **dict.fromkeys(("Results", "evaluate_ijbc", "evaluate_lfw"), _EVALUATION),
        **dict.fromkeys(("Run", "distill", "train"), _TRAINING),
    },
)
