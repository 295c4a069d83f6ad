"""Names the usual verification packs as papers do. To add a pack, add a line."""

from __future__ import annotations

# The file name without its suffix, and the name in papers, in the order of their tables.
PACK_NAMES = {
    "lfw": "LFW",
    "cfp_fp": "CFP-FP",
    "agedb_30": "AgeDB-30",
    "calfw": "CALFW",
    "cplfw": "CPLFW",
}


def pretty_name(pack: str) -> str:
    """Returns the name of a pack in papers, or its own name for packs of one's own."""
    return PACK_NAMES.get(pack, pack)
