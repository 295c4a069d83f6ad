"""Searches galleries: the nearest faces, the probes, and how results are shown."""
