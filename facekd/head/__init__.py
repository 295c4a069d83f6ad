"""Turns embeddings into class scores and a loss: margin classifiers, whole, chunked, sharded or sampled."""
