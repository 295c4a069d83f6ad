"""Names what mutation testing covers: for each subject its files, and the tests that must notice a change in them."""

from __future__ import annotations

SUBJECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "margins": (
        ("facekd/margins/*.py",),
        ("tests/facekd/margins",),
    ),
    "verification": (
        (
            "facekd/verification/*.py",
            "facekd/verification/intervals/*.py",
            "facekd/verification/search/*.py",
            "facekd/results/kept_scores.py",
        ),
        ("tests/facekd/verification", "tests/facekd/results/test_kept_scores.py"),
    ),
    "recordio": (
        ("facekd/data/recordio/*.py",),
        ("tests/facekd/data/recordio", "tests/facekd/data/datasets/test_reading_by_the_batch.py"),
    ),
    "templates": (
        ("evaluation/ijb/pooling.py", "evaluation/ijb/template_rows.py"),
        ("tests/evaluation/ijb/test_pooling.py", "tests/evaluation/ijb/test_template_rows.py"),
    ),
    "sharing": (("facekd/distillation/*.py",), ("tests/facekd/distillation",)),
    "head": (("facekd/head/*.py",), ("tests/facekd/head", "tests/facekd/margins/test_margins.py")),
    "distiller": (
        ("facekd/training/distilling/distiller.py",),
        ("tests/facekd/training/distilling/test_distiller.py",),
    ),
}
