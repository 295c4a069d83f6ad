"""Turns the file of a study into commands, and their results into comparisons, tables and a page."""
