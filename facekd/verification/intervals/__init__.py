"""Computes confidence intervals of rates and of differences: closed forms, and bootstraps over people and seeds."""
