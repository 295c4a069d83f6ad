"""Checks the names of images in the lists of an IJB-style set, which may be a stranger's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekd.errors import DataError
from facekd.utils.foreign import leads_out, shown


def require_inside(names: np.ndarray, path: Path) -> None:
    """Refuses names of images that lead out of their folder: what they name may be shown on a page, and given away.

    Args:
        names: bytes (N,), as a list has them, with `/` between folders.
        path: the list, for the message.

    Raises:
        DataError: naming the list and the first of them.
    """
    # Two points side by side are rare, so few names are looked at one by one.
    odd = np.flatnonzero(np.char.startswith(names, b"/") | (np.char.find(names, b"..") >= 0))
    for name in (name.decode(errors="surrogateescape") for name in names[odd].tolist()):
        if leads_out(name):
            raise DataError(
                f"{path}: names the image {shown(name)}, which leads out of `loose_crop`; name files in that folder "
                "(links to images elsewhere may lie there)"
            )
