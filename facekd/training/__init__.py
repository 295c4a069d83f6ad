"""Trains and distils: the two loops, their configs, optimiser, schedule, resuming and logs."""
