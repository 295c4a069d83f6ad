"""Looks for what the libraries of others would load from the current folder, which may be a stranger's."""

from __future__ import annotations

import os
from collections.abc import Iterator

# cuSPARSELt, which comes with torch for NVIDIA's GPUs, loads the driver by this name when it is loaded itself. The path
# on which it has the system look (`readelf -d`: `$ORIGIN:`) ends in an empty entry. That stands for the current folder,
# and comes before all places of the system.
DRIVER = "libcuda.so.1"
# Folders in which the system looks for a library as well, within each folder of the path: of the processor's kind, and
# before glibc 2.37 of these names within each other.
OF_ANY_KIND, BY_NAME, DEEPEST = "glibc-hwcaps", ("tls", "haswell", "avx512_1", "xeon_phi", "x86_64", "aarch64"), 4


def why_not_torch_here() -> str | None:
    """Says which library torch would load from the current folder; None if there is none.

    Where a folder cannot be looked into, the system finds nothing either.
    """
    places = ("", *_folders_below(OF_ANY_KIND), *_named_folders("", DEEPEST))
    found = next((path for place in places if os.path.lexists(path := os.path.join(place, DRIVER))), None)  # noqa: PTH118
    if found is None:
        return None
    return (
        f"the current folder holds {found}, and torch would run what is in it as the driver of the GPU: change into "
        "another folder (`cd`), or move it away"
    )


def _folders_below(folder: str) -> Iterator[str]:
    try:
        yield from (entry.path for entry in os.scandir(folder))
    except OSError:
        return


def _named_folders(place: str, depth: int) -> Iterator[str]:
    """Yields the folders of the names above, in each other as deep as `depth`."""
    for name in BY_NAME if depth else ():
        folder = os.path.join(place, name)  # noqa: PTH118
        if os.path.isdir(folder):  # noqa: PTH112
            yield folder
            yield from _named_folders(folder, depth - 1)
