"""Searches faces in a gallery (1:N): exact ranks, identification rates, and their intervals."""
