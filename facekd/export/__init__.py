"""facekd/export."""
