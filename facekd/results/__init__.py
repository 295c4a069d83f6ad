"""Reads what evaluations leave: results.json and its schema, curves, scores, and the thresholds to deploy."""
