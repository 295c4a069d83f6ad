"""Learns to tell how well a face can be recognised from its embedding: what is learnt, from what, and how."""
