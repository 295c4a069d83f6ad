"""Measures error rates at fixed thresholds, by group of people, and how far groups differ."""
