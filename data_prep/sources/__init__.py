"""Reads images to pack from folders, lists, tables and WebDataset tars."""
