"""Examines packs: summaries, image quality, identity errors, contact sheets, the page."""
