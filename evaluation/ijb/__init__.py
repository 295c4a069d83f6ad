"""Evaluates models by the IJB protocols: reading, embedding, pooling into templates, scoring."""
