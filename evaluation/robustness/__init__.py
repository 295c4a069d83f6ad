"""Measures how a model's verification suffers when its images do: blur, compression, light, alignment, occlusion."""
