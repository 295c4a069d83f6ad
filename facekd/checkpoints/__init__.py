"""facekd/checkpoints."""
