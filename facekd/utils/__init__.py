"""facekd/utils."""
