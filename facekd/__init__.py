"""Trains, distils, exports and evaluates face-verification models."""

import os

__version__ = "0.1.0"

# onnxruntime's builds report to Microsoft and keep an identifier of the user, unless this is set before their import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
