"""evaluation/sets."""
