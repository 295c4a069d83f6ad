"""Turns bytes into aligned pixels, and pixels into a model's input."""
