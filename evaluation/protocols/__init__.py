"""Reads published identification and pair protocols from their layouts, and measures a model on them."""
