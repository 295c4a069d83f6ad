"""Reads published lists of pairs and draws new ones."""
