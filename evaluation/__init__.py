"""Evaluates models: protocols, scoring and reports. It depends on facekd, never the reverse."""
