"""Reads evaluation sets and caches their embeddings."""
