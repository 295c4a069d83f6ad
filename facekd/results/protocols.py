"""Says what defines the protocol of an evaluation, so that numbers of two are compared only where they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facekd.utils.foreign import shown

MOST_SHOWN = 3  # differences
DESCRIPTIONS = ("text", "like", "resize", "seed")  # keys of a protocol that describe it, and do not define it


def definition_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the protocol without the words that only describe it, and how its scores were normalised, if they were.

    Results did not always say that folds were the pack's. Each model has a cohort of its own, of as many images.
    """
    protocol = {
        key: value
        for key, value in (result.get("protocol") or {}).items()
        if key not in DESCRIPTIONS and not (key == "fold_kind" and value != "balanced")
    }
    norm = result.get("score_norm") or {}
    return protocol | {f"score_norm.{key}": norm[key] for key in ("num_images", "top") if key in norm}


def describe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Says in words where two definitions differ, such as `flip is True and False`; empty if they do not."""
    changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    texts = [f"{shown(key)} is {shown(ours.get(key))} and {shown(theirs.get(key))}" for key in changed[:MOST_SHOWN]]
    return ", ".join(texts) + (", ..." if len(changed) > MOST_SHOWN else "")
