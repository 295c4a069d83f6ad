"""Writes people's images, or drawn embeddings, in the layout of IJB-B and IJB-C."""
