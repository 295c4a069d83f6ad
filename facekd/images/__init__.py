"""facekd/images."""
