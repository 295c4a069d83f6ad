"""Reads and writes verification packs: `.bin` files as InsightFace ships them, and `.npz` files of facekd."""
