"""Verb `facekd report`: writes the page of one evaluation or training, or compares models and tests the differences."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import describe_assumptions
from evaluation.result_files import lock_output
from evaluation.results.evaluated import Evaluated, check_comparable, load_results, match_by_set
from evaluation.results.figures import Curve, draw_identification, draw_verification
from evaluation.results.page import write_report
from evaluation.results.pairs_of_result import ResultPairs, load_pairs
from evaluation.results.summary_page import write_summary_page
from facekd.commands.command_line import FAR_LIST, SEED, CommandParser, command_text, whole_number
from facekd.commands.places import check_apart, check_named_once, claimed_files, mark_of_format, require_own_results
from facekd.errors import DataError, FacekdError, run_verb
from facekd.files.result_folder import MARK, finish_results, start_results
from facekd.files.writing import write_text
from facekd.pages.figures import chart
from facekd.pages.html import Picture, write_page
from facekd.pages.markdown import markdown_text
from facekd.pages.numbers import interval, interval_of_points, p_value, percent, points
from facekd.pages.pdf import print_page
from facekd.pages.tables import Table
from facekd.results.reading import read_curves, read_result
from facekd.results.schema import IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT, SUMMARY_FORMAT, check_result
from facekd.training.logbook import write_run_page
from facekd.utils.foreign import shown, some_of
from facekd.utils.wording import counted
from facekd.verification import roc_curve
from facekd.verification.intervals.bootstrap import MIN_DRAWS, MIN_SUBJECTS
from facekd.verification.intervals.paired_bootstrap import PairedBootstrap, differences

MAX_FAR_OF_LARGE_SETS = 1e-3  # tested by default on large sets: higher FARs take minutes
MANY_PAIRS = 1_000_000  # what makes a set large
FORMAT = "facekd-comparison"
FILES = ("comparison.json", "comparison.html", "comparison.md")  # the one that says that all are there comes first
EXAMPLE = """examples:
  facekd report results/student                            # its report.html, report.md and results.csv again
  facekd report runs/student                               # the curves of a training, also while it goes on
  facekd report results/teacher results/student results/other --output comparison
  facekd report a b --output comparison --fars 1e-4,1e-5
  facekd report results/student --pdf student.pdf          # on paper, with a summary in the words of ISO/IEC 19795-1
  facekd report results/student/groups.html --pdf g.pdf    # any other page on paper

Writes to the output folder comparison.html, comparison.md and comparison.json. The first model is the one that the
others are compared with. All must have been evaluated on the same data by the same protocol."""


@dataclass(frozen=True)
class ScoredModels:
    """Holds the models that are compared on one set, and the scores that they left.

    Attributes:
        models: their results.
        scores: (P,) of each model; None for one that left none, or if the pairs are not known.
        pairs: the pairs of the set; None if it is not at its place.
        why_no_pairs: why not.
    """

    models: list[Evaluated]
    scores: list[np.ndarray | None]
    pairs: ResultPairs | None
    why_no_pairs: str = ""


@dataclass(frozen=True)
class Comparison:
    """Holds the comparison of several models on one set: the tables that are shown, and the tests behind them.

    Attributes:
        scored: the models; the first is the one that the others are compared with.
        summary: one row for each model.
        tests: for each other model its differences, FAR by FAR; empty if nothing was tested.
        differences: a table of the tests for each other model.
        about: how the differences were tested, or why they were not.
    """

    scored: ScoredModels
    summary: Table
    tests: list[list[Any]]
    differences: list[Table]
    about: str

    @property
    def models(self) -> list[Evaluated]:
        """Returns the models."""
        return self.scored.models

    @property
    def title(self) -> str:
        """Returns the name of the set."""
        return self.models[0].data[0]

    @property
    def protocol(self) -> dict[str, Any]:
        """Returns the protocol, which is the same for all models."""
        return self.models[0].result["protocol"]

    def to_text(self) -> str:
        """Returns the tables for a terminal, and the sentence on the tests below them."""
        return "\n".join([*(table.to_text() for table in (self.summary, *self.differences)), self.about])

    def to_markdown(self) -> str:
        """Returns the same as Markdown."""
        tables = [table.to_markdown() for table in (self.summary, *self.differences)]
        return "\n".join([*tables, markdown_text(self.about)])

    def to_json(self) -> dict[str, Any]:
        """Returns the part of comparison.json that is about this set."""
        tested = [
            {"first": self.models[0].name, "second": other.name, "tar_at_far": [asdict(entry) for entry in entries]}
            for other, entries in zip(self.models[1:], self.tests, strict=False)
        ]
        return {
            "data": self.title,
            "protocol": self.protocol,
            "models": [
                {
                    "name": one.name,
                    "folder": str(one.folder),
                    "assumed": (one.result.get("model") or {}).get("assumed", []),
                }
                for one in self.models
            ],
            "differences": tested or None,
            "about": self.about,
        }

    def to_page(self) -> dict[str, Any]:
        """Returns what the template of the page shows of this set."""
        return {
            "title": self.title,
            "protocol": self.protocol["text"],
            "summary": self.summary,
            "pictures": _pictures(self.scored),
            "differences": self.differences,
            "about": self.about,
        }


def main(argv: list[str] | None = None) -> int:
    """Parses, and writes the report of one result or the comparison of several, on paper too if asked."""
    arguments = _parse(argv)
    # A PDF of that name is replaced, and nothing else: the page, results or a log would be gone.
    with claimed_files([arguments.pdf], [], "facekd report --pdf", [b"%PDF-"]):
        page = _write(arguments)
        if arguments.pdf is not None:
            check_named_once(page, arguments.pdf)
            print_page(page, arguments.pdf, arguments.browser)
            print(arguments.pdf)
    return 0


def _write(arguments: argparse.Namespace) -> Path:
    """Writes the page that is asked for, and returns it; a page that is named itself stays as it is."""
    first = Path(arguments.results[0])
    if len(arguments.results) > 1:
        output = Path(arguments.output)
        check_apart(output, *map(Path, arguments.results), names=FILES)
        with lock_output(output):
            require_own_results(output, FILES[1:], "facekd report", FILES[0], [mark_of_format(FORMAT)])
            _compare(arguments)
        return output / "comparison.html"
    if first.suffix == ".html":
        if not first.is_file():
            raise DataError(f"{first}: no such page; name one that facekd wrote")
        return first
    if _is_run(first):
        page = write_run_page(first)
        print(page)
        return page
    read_result(first)  # a folder without results is refused before anything is written there
    with lock_output(first):
        _report_one(str(first))
    return first / "report.html"


def _is_run(folder: Path) -> bool:
    """Tells whether a folder is that of a training, which has a log and no results."""
    return (folder / "log.jsonl").is_file() and not (folder / MARK).exists()


def _compare(arguments: argparse.Namespace) -> None:
    """Compares the models set by set, prints and writes."""
    output, comparisons = Path(arguments.output), []
    loaded = [load_results(folder) for folder in arguments.results]
    matched = match_by_set(loaded, arguments.results)
    if alone := {one.data[0] for results in loaded for one in results} - {models[0].data[0] for models in matched}:
        print(
            f"left out, because not all of these were evaluated on them: {some_of(sorted(alone), 8)}", file=sys.stderr
        )
    for models in matched:
        check_comparable(models)
        check_apart(output, *(_data_of(one.result) for one in models), names=FILES)
        scored = _read_scored(models, arguments.names)
        tests, about = _test(scored, arguments)
        one = Comparison(scored, summary_table(models), tests, difference_tables(models, tests), about)
        print(f"\n{shown(one.title)}: {shown(one.protocol['text'], 1000)}\n{one.to_text()}")
        comparisons.append(one)

    # Write the same in three forms.
    start_results(output, FILES[1:], mark=FILES[0])
    names = " and ".join(model.name for model in comparisons[0].models)
    pages = [one.to_page() for one in comparisons]
    write_page(
        output / "comparison.html", "comparison", title=f"Comparison of {names}", sets=pages, **_around(comparisons)
    )
    markdown = ["# Comparison\n"]
    markdown += [
        f"# {markdown_text(one.title)}\n\nProtocol: {markdown_text(one.protocol['text'])}.\n\n{one.to_markdown()}\n"
        for one in comparisons
    ]
    write_text(output / "comparison.md", "\n".join(markdown))
    content = [one.to_json() for one in comparisons]
    whole = {"format": FORMAT, "version": 1, "sets": content}
    finish_results(output, whole, mark=FILES[0])
    print(f"\nwritten to {output}")


def _data_of(result: dict[str, Any]) -> Path | None:
    """Returns where the set lay that a result is of; None for a name that cannot be one."""
    place = result["pair_set"]["path"] if result["format"] == LFW_FORMAT else result["dataset"]["root"]
    return Path(place) if isinstance(place, str) and "\0" not in place else None


def _around(comparisons: list[Comparison]) -> dict[str, list[str]]:
    """Returns what the page says above and below the sets: whose preprocessing was assumed, and what to do next."""
    models = comparisons[0].models
    assumed = {one.name: describe_assumptions(one.result.get("model")) for one in models}
    return {
        "assumptions": [f"{name}: {text}" for name, text in assumed.items() if text],
        "next": [
            f"One model in detail: `{command_text('report', [str(models[0].file.parent)])}`",
            "More models, or other FARs: name them in the same command; `facekd report --help`",
        ],
    }


def _report_one(folder: str) -> None:
    result = read_result(folder)
    if result["format"] == SUMMARY_FORMAT:
        check_result(Path(folder) / "results.json", result)
        if not result["pair_sets"]:
            raise DataError(f"{folder}: its results.json is of no pack; run the evaluation again")
        print(write_summary_page(Path(folder), result["pair_sets"]))
        return
    # Where the set is still at its place, the scores are counted again first.
    if result["format"] in (IJB_FORMAT, PROTOCOL_FORMAT) and result.get("eer") is not None:
        _read_scored(load_results(folder), None)
    for path in write_report(folder):
        print(path)


def summary_table(models: list[Evaluated]) -> Table:
    """Returns one row for each model; nothing is set in bold, since the intervals say more than a best value."""
    results = [one.result for one in models]
    head, columns = ["model"], []
    if all(result.get("accuracy") for result in results):
        head.append("accuracy %")
        columns.append([percent(result["accuracy"]["mean"]) for result in results])
    if all(result.get("eer") is not None for result in results):
        head.append("EER %")
        columns.append([percent(result["eer"]) for result in results])
        points = [{point["far"]: point for point in result["tar_at_far"]} for result in results]
        for far in (far for far in points[0] if all(far in table for table in points)):
            if points[0][far]["tar"] is not None:
                head.append(f"TAR % at FAR {far:g}")
                columns.append([f"{percent(table[far]['tar'])} ({interval(table[far]['ci95'])})" for table in points])
    if all(result.get("identification") for result in results):
        means = [result["identification"]["mean"] for result in results]
        at_fpir = [{point["fpir"]: point["tpir"] for point in mean["tpir_at_fpir"]} for mean in means]
        for fpir in (fpir for fpir in at_fpir[0] if all(fpir in own for own in at_fpir)):
            head.append(f"TPIR % at FPIR {fpir:g}")
            columns.append([percent(own[fpir]) for own in at_fpir])
        at_rank = [{entry["rank"]: entry["rate"] for entry in mean["rank"]} for mean in means]
        for rank in [rank for rank in at_rank[0] if all(rank in own for own in at_rank)][:1]:
            head.append(f"rank-{rank} %")
            columns.append([percent(own[rank]) for own in at_rank])
        if all((mean.get("mean_average_precision") or {}).get("value") is not None for mean in means):
            head.append("mAP %")
            columns.append([percent(mean["mean_average_precision"]["value"]) for mean in means])
    rows = [[one.shown_name, *(column[row] for column in columns)] for row, one in enumerate(models)]
    return Table("Results", head, rows)


def difference_tables(models: list[Evaluated], tests: list[list[Any]]) -> list[Table]:
    """Returns for each other model its TAR minus that of the first, with interval, p-value and a verdict in words."""
    tables = []
    for other, entries in zip(models[1:], tests, strict=False):
        rows = []
        for entry in entries:
            if entry.difference is None:
                rows.append([f"{entry.far:g}", "not measurable", "", "", ""])
                continue
            rows.append(
                [
                    f"{entry.far:g}",
                    points(entry.difference),
                    interval_of_points(entry.ci95),
                    p_value(entry.p_value),
                    _verdict(entry, models[0].name, other.name),
                ]
            )
        head = ["FAR", "difference, points of TAR", "95 % interval", "p", "verdict"]
        tables.append(Table(f"{other.name} minus {models[0].name}", head, rows))
    return tables


def _verdict(entry: Any, first: str, second: str) -> str:
    if entry.p_value >= 0.05:
        return "no difference shown"
    return f"{second if entry.difference > 0 else first} is better"


def _read_scored(models: list[Evaluated], names: str | None) -> ScoredModels:
    """Reads the scores of models on one set, and counts them again.

    Raises:
        DataError: the scores of a model are not those of its results.
    """
    without: list[np.ndarray | None] = [None] * len(models)
    if any(one.result.get("eer") is None for one in models):
        return ScoredModels(models, without, None, "there are no 1:1 results")
    try:
        pairs = load_pairs(models[0].result, names)
    except (FacekdError, OSError) as error:
        return ScoredModels(models, without, None, f"the data is not at its place: {error}")
    return ScoredModels(models, [one.scores(pairs) for one in models], pairs)


def _test(scored: ScoredModels, arguments: argparse.Namespace) -> tuple[list[list[Any]], str]:
    """Tests the differences of each other model from the first.

    Returns:
        The differences, and a sentence on how they were tested; no differences, and why they were not tested.
    """
    # Tests need the set where it was, and the scores of every model.
    models, pairs = scored.models, scored.pairs
    if pairs is None:
        return [], f"Differences were not tested: {scored.why_no_pairs}."
    scores = [own for own in scored.scores if own is not None]
    if len(scores) < len(models):
        lacking = ", ".join(str(one.folder) for one, own in zip(models, scored.scores, strict=True) if own is None)
        return [], f"Differences were not tested: no scores.npy in {lacking}."
    is_same, subjects = pairs.is_same, pairs.subjects

    # Pairs that were left out of the evaluation have no score.
    kept = np.isfinite(scores[0])
    if not all(np.array_equal(np.isfinite(own), kept) for own in scores[1:]):
        raise DataError("the models have scores for different pairs; evaluate them on the same images")
    is_same, scores = is_same[kept], [own[kept] for own in scores]

    # Resample people if there are enough of them, and comparisons if not.
    note = f" ({pairs.why_no_subjects})" if pairs.why_no_subjects else ""
    if subjects is not None:
        subjects = np.unique(subjects[kept], return_inverse=True)[1].reshape(-1, 2)
        known = len(np.unique(subjects[is_same, 0]))
        if known < MIN_SUBJECTS:
            subjects, note = None, f" ({counted(known, 'person is', 'people are')} too few to resample)"
    fars = _fars(models, arguments.fars, len(is_same))
    bootstrap = PairedBootstrap(is_same, subjects, fars, arguments.draws, arguments.seed)
    drawn = [bootstrap.tars(own, one.name) for own, one in zip(scores, models, strict=True)]
    if subjects is None:
        who = f"comparisons, since people are not known{note}: expect p-values that are too small"
    else:
        who = counted(bootstrap.num_subjects, "person")
    rule = models[0].result["protocol"].get("rule", "exact")
    by_other_rule = "" if rule == "exact" else f" by the exact rule (the TARs above are by the {rule} rule)"
    about = (
        f"Differences: paired bootstrap over {who}; {counted(arguments.draws, 'draw')}, the same for all models, each "
        f"with its own threshold{by_other_rule}; p is two-sided and not corrected for the number of tests."
    )
    return [differences(drawn[0], other, fars) for other in drawn[1:]], about


def _fars(models: list[Evaluated], wanted: tuple[float, ...] | None, num_pairs: int) -> list[float]:
    """Returns the FARs to test at: those asked for, or those that could be measured and do not take minutes."""
    if wanted is not None:
        return list(wanted)
    measured = [point["far"] for point in models[0].result["tar_at_far"] if point["tar"] is not None]
    small = [far for far in measured if num_pairs <= MANY_PAIRS or far <= MAX_FAR_OF_LARGE_SETS]
    return small or measured[:1]


def _pictures(scored: ScoredModels) -> list[Picture]:
    pairs = None if scored.pairs is None else scored.pairs.is_same
    curves = [_curve(one, scores, pairs) for one, scores in zip(scored.models, scored.scores, strict=True)]
    figures = []
    if all("roc_far" in curve.curves for curve in curves):
        figures.append((draw_verification(curves), "The models over each other, on the same comparisons."))
    if all(any(name.startswith("cmc_") for name in curve.curves) for curve in curves):
        within = scored.models[0].result["protocol"].get("within", 1)
        figures.append((draw_identification(curves, within=within), "Identification in each gallery."))
    return [chart(figure, text) for figure, text in figures if figure is not None]


def _curve(one: Evaluated, scores: np.ndarray | None, is_same: np.ndarray | None) -> Curve:
    """Returns the curves of a model: those that it left or, for a pack, those of its scores, if there are any."""
    points = one.result.get("tar_at_far") or []
    if one.result["format"] != LFW_FORMAT:
        return Curve(one.shown_name, read_curves(one.folder, one.result), points)
    if scores is None or is_same is None:
        return Curve(one.shown_name, {}, points)
    curve = roc_curve(scores[is_same], scores[~is_same])
    return Curve(one.shown_name, {"roc_far": curve.far, "roc_tar": curve.tar}, points)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd report",
        description="Writes the page of one evaluation or training, or compares several models evaluated alike.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # What to report or compare, and how the differences are tested.
    add(
        "results",
        nargs="+",
        metavar="DIR",
        help="output folders of `facekd evaluate`, or the folder of a training; with --pdf also any page of facekd's",
    )
    add("--output", metavar="DIR", help="folder for the comparison; needed with two or more results")
    add(
        "--fars",
        type=FAR_LIST,
        metavar="F,F",
        help="FARs to test at (default: those measured, up to 1e-3 on large sets)",
    )
    add(
        "--draws",
        type=whole_number(MIN_DRAWS, 1_000_000),
        default=1000,
        metavar="N",
        help="draws of the bootstrap, at least 100 (default %(default)s)",
    )
    add("--seed", type=SEED, default=0, help="random seed of the draws (default %(default)s)")
    add("--names", metavar="X.txt", help="LFW-style results: the pack's list of names, so that people are resampled")
    # The page on paper.
    add("--pdf", type=Path, metavar="FILE", help="print the page into this file too (needs facekd[pdf])")
    add("--browser", type=Path, metavar="FILE", help="with --pdf: an executable of Chrome or Chromium")
    arguments = parser.parse_args(argv)
    # What a parser cannot express: combinations and ranges.
    if arguments.browser is not None and arguments.pdf is None:
        parser.error("--browser: goes with --pdf")
    if arguments.pdf is None and Path(arguments.results[0]).suffix == ".html":
        parser.error("DIR: a page is only printed, by --pdf FILE; to write one again, give the folder of its results")
    if len(arguments.results) > 1 and not arguments.output:
        parser.error("--output: give a folder for the comparison")
    if len(arguments.results) == 1:
        if arguments.output:
            parser.error("--output: the report of one result goes into its own folder; name two or more to compare")
        if of_tests := [name for name in ("fars", "names") if getattr(arguments, name) is not None]:
            parser.error(f"--{of_tests[0]} is about a comparison: name two or more results")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
