"""Reads training images: RecordIO packs, image folders, generated faces."""
