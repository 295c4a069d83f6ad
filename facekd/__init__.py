"""facekd: face verification, trained, distilled through a shared margin classifier, exported and judged."""

__version__ = "0.1.0"
