"""Holds helpers that know nothing of faces: files, locks, processes, progress, config files."""
