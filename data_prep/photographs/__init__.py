"""Finds faces and landmarks in photographs."""
