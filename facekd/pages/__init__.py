"""Renders what people look at: HTML pages from templates, figures in one style, tables. Knows nothing of faces."""
