"""Reads groups of people, joins them to sets, and measures and shows their error rates."""
