"""Holds tools that know nothing of faces: processes, progress, random numbers, text of strangers."""
