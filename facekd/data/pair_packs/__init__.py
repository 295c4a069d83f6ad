"""facekd/data/pair_packs."""
