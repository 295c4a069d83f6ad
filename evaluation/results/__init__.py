"""Presents results: on the terminal, as tables, figures and pages."""
