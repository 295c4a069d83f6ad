"""facekd/experiments."""
