"""What each page needs, with a hostile name wherever it shows one."""

from __future__ import annotations

from typing import Any

import pytest

from facekd.pages.html import Picture
from facekd.pages.tables import Table

HOSTILE = """<script>alert("1")</script> 'quoted' "twice" & <img src=x onerror=alert(2)>"""
HOSTILE_TABLE = Table(HOSTILE, ["", HOSTILE], [[HOSTILE, HOSTILE], ["number", "1"]])
HOSTILE_PICTURE = Picture(b"\x89PNG", HOSTILE)
HOSTILE_CHART = Picture(b"\x89PNG", HOSTILE, alt=f"chart of {HOSTILE}", is_chart=True)
NEXT = [f"then `facekd {HOSTILE}`"]

# By template: what each page needs, with a hostile name wherever it shows one.
VALUES: dict[str, dict[str, Any]] = {
    "evaluation": {
        "title": HOSTILE,
        "protocol": HOSTILE,
        "summary": HOSTILE,
        "notes": [HOSTILE],
        "tables": [HOSTILE_TABLE],
        "titles": {"verification": HOSTILE, "data": HOSTILE},
        "compared": HOSTILE,
        "pictures": {HOSTILE: [HOSTILE_PICTURE]},
        "worst": {"strips": {}, "table": HOSTILE_TABLE, "why_no_images": HOSTILE},
        "max_images": 6,
        "reasons": [HOSTILE],
        "command": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
    },
    "packs": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "accuracy": HOSTILE_TABLE,
        "protocols": [HOSTILE],
        "pictures": [HOSTILE_PICTURE],
        "command": HOSTILE,
        "next": NEXT,
    },
    "comparison": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "sets": [
            {
                "title": HOSTILE,
                "protocol": HOSTILE,
                "summary": HOSTILE_TABLE,
                "pictures": [HOSTILE_PICTURE],
                "differences": [HOSTILE_TABLE],
                "about": HOSTILE,
            }
        ],
    },
    "groups": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "protocol": HOSTILE,
        "source": HOSTILE,
        "num_left_out": 1,
        "attributes": [
            {
                "name": HOSTILE,
                "notes": [HOSTILE],
                "points": [
                    {
                        "heading": HOSTILE,
                        "rates": [HOSTILE_TABLE],
                        "own": HOSTILE_TABLE,
                        "differentials": HOSTILE_TABLE,
                        "pairs": HOSTILE_TABLE,
                        "picture": HOSTILE_PICTURE,
                    }
                ],
            },
            {"name": HOSTILE, "notes": [], "points": []},
        ],
        "command": HOSTILE,
    },
    "inspection": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "distributions": HOSTILE_TABLE,
        "histograms": HOSTILE_PICTURE,
        "duplicates": HOSTILE_TABLE,
        "duplicate_sheets": [HOSTILE_PICTURE],
        "findings": [{"title": HOSTILE, "explanation": HOSTILE, "sheet": HOSTILE_PICTURE}],
        "extremes": [HOSTILE_PICTURE],
        "random_sheet": HOSTILE_PICTURE,
    },
    "clustering": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "histogram": HOSTILE_PICTURE,
        "sheets": [HOSTILE_PICTURE],
    },
    "robustness": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "protocol": HOSTILE,
        "notes": [HOSTILE],
        "summary": HOSTILE_TABLE,
        "about_curves": HOSTILE,
        "parts_of_page": [
            {
                "title": HOSTILE,
                "about": HOSTILE,
                "faces": [HOSTILE_PICTURE],
                "curves": [HOSTILE_PICTURE],
                "table": HOSTILE_TABLE,
            }
        ],
        "controls": HOSTILE_TABLE,
        "command": HOSTILE,
    },
    "search": {
        "title": HOSTILE,
        "next": NEXT,
        "sentences": [HOSTILE],
        "has_threshold": True,
        "probes": [
            {
                "title": HOSTILE,
                "faces": [
                    {"kind": "probe", "caption": HOSTILE, "picture": HOSTILE_PICTURE, "lines": [HOSTILE]},
                    {"kind": "accepted", "caption": HOSTILE, "picture": None, "missing": "gone", "lines": []},
                ],
            }
        ],
        "numbers": HOSTILE_TABLE,
        "without": HOSTILE_TABLE,
    },
    "quickstart": {
        "title": HOSTILE,
        "next": NEXT,
        "results": HOSTILE_TABLE,
        "reasons": [HOSTILE],
        "classifiers": HOSTILE_TABLE,
        "pictures": [HOSTILE_PICTURE],
    },
    "study": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "packs": [
            {"name": HOSTILE, "description": HOSTILE, "table": HOSTILE_TABLE, "pictures": [HOSTILE_PICTURE]},
        ],
        "classifiers": HOSTILE_TABLE,
        "losses": HOSTILE_CHART,
        "notes": [HOSTILE],
        "command": HOSTILE,
    },
    "training": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "notes": [HOSTILE],
        "validation": HOSTILE_TABLE,
        "pictures": [HOSTILE_CHART],
    },
    "pipeline": {
        "title": HOSTILE,
        "next": NEXT,
        "stages": HOSTILE_TABLE,
        "classifiers": HOSTILE_TABLE,
        "notes": [HOSTILE],
        "losses": HOSTILE_CHART,
    },
}


@pytest.fixture
def page_values() -> dict[str, dict[str, Any]]:
    """By template: the values of its page."""
    return VALUES
