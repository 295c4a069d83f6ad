"""Reads and writes weights: checkpoints, sharded heads, shared heads, imported models."""
