"""facekd/training."""
