"""Adds to setup.cfg the description for a package index, where links to files of the repository would lead nowhere."""

import re
from pathlib import Path

from setuptools import setup

README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")

if __name__ == "__main__":
    setup(
        long_description=re.sub(r"\[([^]]+)\]\((?!https?://)[^)]+\)", r"\1", README)
        + "\nThe documents and examples named here are in the source archive.\n",
        long_description_content_type="text/markdown",
    )
