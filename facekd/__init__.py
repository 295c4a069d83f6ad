"""Trains, distils, exports and evaluates face-verification models."""

__version__ = "0.1.0"
