"""Holds messages to words that agree with their numbers: nothing says "1 images"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("facekd", "evaluation", "data_prep", "benchmarks")

PLURALS = (
    "batches|bytes|cells|centers|centres|characters|classes|clusters|columns|commands|comparisons|copies|degrees|"
    "distractors|draws|duplicates|embeddings|entries|epochs|faces|files|folders|folds|forms|GPUs|groups|hours|"
    "identities|images|inputs|keys|kinds|labels|layers|levels|lines|losses|minutes|models|names|numbers|others|"
    "outputs|packs|pairs|parameters|parts|passes|people|persons|photographs|photos|places|points|probes|processes|"
    "qualities|records|rounds|rows|runs|samples|scores|searches|seconds|seeds|sets|shards|steps|sub-centres|subjects|"
    "templates|threads|trials|turns|values|workers"
)
# A plural behind a number, with up to three words between; not `images/s`. Behind a word of BETWEEN it belongs to
# something else: `{folder} holds no images`.
BEHIND = re.compile(rf"\s+((?:[A-Za-z'-]+ ){{0,3}}?)({PLURALS})\b(?![/-])")
BETWEEN = re.compile(
    r"\b(?:a|about|and|are|at|by|cannot|do|does|for|from|had|has|have|holds|in|is|list|lists|no|not|of|on|over|takes|"
    r"than|that|the|to|with)\b"
)
# The same in a file, where strings may end between two words.
MAYBE = re.compile(rf"\}}[\s\"f]*(?:[A-Za-z'-]+[\s\"f]+){{0,3}}?(?:{PLURALS})\b(?![/-])")

# Names and functions whose value is text, such as `kind` in f"no {kind} pairs".
TEXTS = (
    "_number|_range|agreeing|color|counted|join|kind|list|made|name|outside|percent|photographs_show|shape|shown|"
    "side|some_of|split|tuple|upper|where"
)
# What is shown and can never be 1, or is no count, and why.
ALLOWED = {
    ("data_prep/inspection/clean_lists.py", "{len(keys)} images"): "compared with what older files hold",
    ("facekd/checkpoints/shared_head.py", "{self.sub_centers} sub-centres"): "is hashed; 2 or more",
    ("evaluation/groups/race_layouts.py", "{number} names"): "a verb: what a line names",
    ("facekd/embedder/onnx_models/preprocessing.py", "{wanted[1]} passes"): "a verb: what options pass on",
    ("facekd/experiments/command_runner.py", "{path.stat().st_size} bytes"): "compared with what was noted",
    ("facekd/plugins.py", "{option} names"): "a verb: what an option names",
    ("facekd/faces/show_threshold.py", "{RULE_OF_30 / rate} comparisons"): "30 or more",
    ("facekd/verification/operating_points.py", "{needed} comparisons"): "2 or more: one measures a FAR of 1",
    ("facekd/pages/templates/evaluation.html.j2", "{{ max_images }} aligned images"): "a constant of several",
}


def is_text_or_constant(value: ast.expr) -> bool:
    """Whether what stands in a pair of braces is text, or a constant of the module such as `MAX_PAIRS`."""
    if isinstance(value, ast.Call):
        value = value.func
    if isinstance(value, ast.IfExp):
        return is_text_or_constant(value.body)
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str)
    name = getattr(value, "id", "") or getattr(value, "attr", "")
    return re.fullmatch(TEXTS, name) is not None or (name.isupper() and len(name) > 1)


def plain_plurals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of numbers in f-strings, with the plain plural behind each."""
    for string in ast.walk(tree):
        if not isinstance(string, ast.JoinedStr):
            continue
        for value, text in zip(string.values, string.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            found = BEHIND.match(str(text.value))
            # "1.00 epochs" and "1.00 % of the images" are right.
            digits = "" if value.format_spec is None else ast.unparse(value.format_spec)
            if found is None or BETWEEN.search(found[1]) or re.search(r"\.[1-9]\d*[f%]", digits):
                continue
            if not is_text_or_constant(value.value):
                yield value.lineno, f"{{{ast.unparse(value.value)}}} {found[1]}{found[2]}"


def test_a_number_is_followed_by_a_word_that_agrees_with_it() -> None:
    found = {}
    for path in (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))):
        source = path.read_text(encoding="utf-8")
        if MAYBE.search(source):  # parsing all would take seconds
            for line, text in plain_plurals(ast.parse(source)):
                found[path.relative_to(ROOT).as_posix(), text] = line
    for path in sorted((ROOT / "facekd" / "pages" / "templates").glob("*.j2")):
        for shown in re.finditer(rf"\{{\{{[^}}]*\}}\}}{BEHIND.pattern}", path.read_text(encoding="utf-8")):
            found[path.relative_to(ROOT).as_posix(), shown[0]] = 0
    wrong = [f"{path}:{line}: {text}" for (path, text), line in found.items() if (path, text) not in ALLOWED]
    assert not wrong, "write these by `counted` or `agreeing` of facekd/utils/wording.py:\n" + "\n".join(wrong)
    assert not ALLOWED.keys() - found.keys(), "no longer there: take them out of ALLOWED"


def test_the_search_sees_what_it_looks_for() -> None:
    source = 'f"{len(a):,} images, {n} of {m} bad " f"records, {x.num_pairs} pairs; {r:.0f} images/s, {p:.2f} epochs"'
    assert MAYBE.search(source) and MAYBE.search('f"{n} "\n    f"images"')
    assert [text for _, text in plain_plurals(ast.parse(source))] == [
        "{len(a)} images",
        "{m} bad records",
        "{x.num_pairs} pairs",
    ]
    fine = '''f"{counted(n, 'image')}, no {kind} pairs of {MAX_PAIRS:,} pairs, {path} holds no images"'''
    assert not list(plain_plurals(ast.parse(fine)))
