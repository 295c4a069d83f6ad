"""facekd/data/loading."""
