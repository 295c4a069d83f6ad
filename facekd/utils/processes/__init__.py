"""Starts, stops and watches processes and threads, and spreads work over them."""
