"""evaluation/results."""
