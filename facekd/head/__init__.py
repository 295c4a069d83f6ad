"""facekd/head."""
