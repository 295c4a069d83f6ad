"""Runs long conversions: in order, resumable, with bad records logged."""
