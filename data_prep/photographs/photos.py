"""Finds photographs in folders."""

from __future__ import annotations

import sys
from pathlib import Path

from facekd.errors import DataError
from facekd.images.image_files import explain_no_images, list_nested


def find_photos(root: Path) -> list[str]:
    """Returns the names of all photographs at any depth below a folder, with `/` between folders, sorted.

    `facekd.images.image_files` says which files are images; what is left out is named on the terminal.

    Raises:
        DataError: there is no such folder, or no photograph in it.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: {'is a file' if root.exists() else 'no such folder'}; expected a folder of photographs"
        )
    found, left_out = list_nested(root)
    if not found:
        raise DataError(f"{root} holds no photographs, neither do its subfolders{explain_no_images(left_out)}")
    for warning in left_out.warnings():
        print(f"warning: {root}: {warning}", file=sys.stderr)
    return found
