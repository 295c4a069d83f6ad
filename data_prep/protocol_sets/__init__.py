"""Lays out faces of people as SurvFace, TinyFace, MegaFace and others do, to try protocols without their sets."""
