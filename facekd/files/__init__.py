"""Reads and writes files: whole or not at all, locked, resumable, and as they were when they were opened."""
