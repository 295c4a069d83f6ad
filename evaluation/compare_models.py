"""Verb `facekd report`: the report of one evaluation, or several models side by side with tests of the differences."""

from __future__ import annotations

import argparse
import html
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ijb.problems import subjects_of_templates
from evaluation.ijb.protocol import load_protocol
from evaluation.results.figures import Curve, draw_identification, draw_verification
from evaluation.results.page import FOLDER_FORMAT, name_of, read_curves, read_result, write_report
from evaluation.results.page import FORMAT as IJB_FORMAT
from evaluation.results.tables import Table, interval, percent
from evaluation.sets.pair_set import load_pair_set
from facekd.embedder.model_options import comma_separated
from facekd.errors import DataError, FacekdError, run_verb
from facekd.utils import html as html_page
from facekd.utils.files import write_json, write_text
from facekd.verification import roc_curve
from facekd.verification.bootstrap import MIN_SUBJECTS
from facekd.verification.paired_bootstrap import PairedBootstrap, differences

LFW_FORMAT, LFW_SUMMARY = "facekd-verification", "facekd-verification-summary"
STRICTEST_OF_MANY = 1e-3  # FARs up to here are tested by default on large sets: looser ones take minutes
MANY_PAIRS = 1_000_000
IGNORED = ("text", "like")  # of a protocol: words for people, not what was done
EXAMPLE = """examples:
  facekd report results/student                            # its report.html, report.md and results.csv again
  facekd report results/teacher results/student results/other --output comparison
  facekd report a b --output comparison --fars 1e-4,1e-5

Writes to the output folder comparison.html, comparison.md and comparison.json. The first model is the one that the
others are compared with. All must have been judged on the same data by the same protocol."""


@dataclass(frozen=True)
class Judged:
    """One model's results on one set, and where its scores lie."""

    name: str
    folder: Path
    result: dict[str, Any]

    @property
    def data(self) -> tuple[str, str]:
        """(what the set is called, a digest of it)."""
        if self.result["format"] == IJB_FORMAT:
            dataset = self.result["dataset"]
            return dataset["published"] or Path(dataset["root"]).name, dataset["fingerprint"]
        return self.result["pair_set"]["name"], self.result["pair_set"]["sha256"]

    def scores(self) -> np.ndarray | None:
        """(P,) as the evaluation left them; None where it left none."""
        path = self.folder / "scores.npy"
        try:
            return np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); run the evaluation again") from error


def main(argv: list[str] | None = None) -> int:
    """Parse, and write the report of one result or the comparison of several."""
    arguments = _parse(argv)
    if len(arguments.results) == 1:
        result = read_result(arguments.results[0])
        if result["format"] not in (IJB_FORMAT, FOLDER_FORMAT):
            raise DataError(
                f"{arguments.results[0]}: a single LFW-style result has its pictures beside it already; name two or "
                "more to compare them"
            )
        for path in write_report(arguments.results[0]):
            print(path)
        return 0
    sets = _matched([_load(folder) for folder in arguments.results], arguments.results)
    parts: list[str] = []
    markdown = ["# Comparison", ""]
    content: list[dict[str, Any]] = []
    for judged in sets:
        check_comparable(judged)
        tests, about = _test(judged, arguments)
        tables = [summary_table(judged), *difference_tables(judged, tests)]
        title, protocol = judged[0].data[0], judged[0].result["protocol"]["text"]
        parts += [f"<h2>{html.escape(title)}</h2><p>Protocol: {html.escape(protocol)}.</p>"]
        parts += [tables[0].to_html(), *_pictures(judged)]
        parts += [table.to_html() for table in tables[1:]]
        parts.append(f"<p>{html.escape(about)}</p>")
        markdown += [
            f"# {title}",
            "",
            f"Protocol: {protocol}.",
            "",
            *(table.to_markdown() for table in tables),
            about,
            "",
        ]
        print(f"\n{title}: {protocol}\n" + "\n".join(table.to_markdown() for table in tables) + f"\n{about}")
        content.append(
            {
                "data": title,
                "protocol": judged[0].result["protocol"],
                "models": [{"name": one.name, "folder": str(one.folder)} for one in judged],
                "differences": [
                    {"first": judged[0].name, "second": other.name, "tar_at_far": [asdict(entry) for entry in entries]}
                    for other, entries in zip(judged[1:], tests, strict=True)
                ]
                if tests
                else None,
                "about": about,
            }
        )
    names = " and ".join(one.name for one in sets[0])
    output = Path(arguments.output)
    write_text(output / "comparison.html", html_page.page(f"Comparison of {names}", parts))
    write_text(output / "comparison.md", "\n".join(markdown))
    write_json(output / "comparison.json", {"format": "facekd-comparison", "version": 1, "sets": content})
    print(f"\nwritten to {output}")
    return 0


def _load(folder: str) -> list[Judged]:
    """The results of a folder: one, or one a pack."""
    result = read_result(folder)
    if result["format"] == LFW_SUMMARY:
        return [Judged(name_of(one), Path(folder) / one["pair_set"]["name"], one) for one in result["pair_sets"]]
    if result["format"] not in (IJB_FORMAT, LFW_FORMAT):
        raise DataError(f"{folder}: holds {result['format']}; IJB-style and LFW-style results can be compared")
    return [Judged(name_of(result), Path(folder), result)]


def _matched(loaded: list[list[Judged]], folders: list[str]) -> list[list[Judged]]:
    """Results set by set: of those with several packs, the packs that all have. Names are made to differ."""
    names = [results[0].name for results in loaded]
    if max(Counter(names).values()) > 1:  # two files called model.onnx: call them by their folders
        names = [f"{name} ({Path(folder).name})" for name, folder in zip(names, folders, strict=True)]
    if max(Counter(names).values()) > 1:
        names = list(folders)
    renamed = [
        [Judged(name, one.folder, one.result) for one in results] for name, results in zip(names, loaded, strict=True)
    ]
    if all(len(results) == 1 for results in renamed):
        return [[results[0] for results in renamed]]
    tables = [{one.data[0]: one for one in results} for results in renamed]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    if not shared:
        found = "; ".join(f"{folder}: {', '.join(table)}" for folder, table in zip(folders, tables, strict=True))
        raise DataError(f"no set was judged in all of these folders ({found}); evaluate each model on the same packs")
    return [[table[name] for table in tables] for name in shared]


def check_comparable(judged: list[Judged]) -> None:
    """Refuse results of other data or another protocol than the first one's.

    Raises:
        DataError: naming both folders, and what differs.
    """
    first = judged[0]
    for other in judged[1:]:
        where = f"{first.folder} and {other.folder} cannot be compared"
        if first.result["format"] != other.result["format"]:
            raise DataError(f"{where}: {first.result['format']} results and {other.result['format']} results")
        if first.data[1] != other.data[1]:
            names = " and ".join(dict.fromkeys((first.data[0], other.data[0])))
            raise DataError(
                f"{where}: they were judged on different data ({names}; digests {first.data[1][:12]} and "
                f"{other.data[1][:12]}); evaluate both on one set"
            )
        ours, theirs = (
            {key: value for key, value in one.result["protocol"].items() if key not in IGNORED}
            for one in (first, other)
        )
        odd = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if odd:
            listed = ", ".join(f"{key} is {ours.get(key)} and {theirs.get(key)}" for key in odd)
            raise DataError(f"{where}: the protocols differ ({listed}); evaluate both by one protocol")
        if first.result.get("dropped") != other.result.get("dropped"):
            raise DataError(
                f"{where}: different pairs were left out ({first.result.get('dropped')} and "
                f"{other.result.get('dropped')}); mend the data, or evaluate both from the same images"
            )


def summary_table(judged: list[Judged]) -> Table:
    """A row a model; in a column, the best in bold is left to the eye: an interval says more."""
    results = [one.result for one in judged]
    head, columns = ["model"], []
    if all("accuracy" in result for result in results):
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
        for index, point in enumerate(means[0]["tpir_at_fpir"]):
            head.append(f"TPIR % at FPIR {point['fpir']:g}")
            columns.append([percent(mean["tpir_at_fpir"][index]["tpir"]) for mean in means])
        head.append("rank-1 %")
        columns.append([percent(mean["rank"][0]["rate"]) for mean in means])
    rows = [[one.name, *cells] for one, cells in zip(judged, zip(*columns, strict=True), strict=True)]
    return Table("Results", head, rows)


def difference_tables(judged: list[Judged], tests: list[list[Any]]) -> list[Table]:
    """For each other model, its TAR minus that of the first, with interval, p-value and a verdict in words."""
    tables = []
    for other, entries in zip(judged[1:], tests, strict=False):
        rows = []
        for entry in entries:
            if entry.difference is None:
                rows.append([f"{entry.far:g}", "not measurable", "", "", ""])
                continue
            low, high = entry.ci95
            rows.append(
                [
                    f"{entry.far:g}",
                    f"{100 * entry.difference:+.2f}",
                    f"{100 * low:+.2f} .. {100 * high:+.2f}",
                    f"{entry.p_value:.3g}",
                    _verdict(entry, judged[0].name, other.name),
                ]
            )
        head = ["FAR", "difference, points of TAR", "95 % interval", "p", "verdict"]
        tables.append(Table(f"{other.name} minus {judged[0].name}", head, rows))
    return tables


def _verdict(entry: Any, first: str, second: str) -> str:
    if entry.p_value >= 0.05:
        return "no difference shown"
    return f"{second if entry.difference > 0 else first} is better"


def _test(judged: list[Judged], arguments: argparse.Namespace) -> tuple[list[list[Any]], str]:
    """Differences of each other model from the first, and a sentence on how they were tested, or why they were not."""
    if judged[0].result.get("eer") is None:
        return [], "Differences were not tested: there are no 1:1 results."
    found = [one.scores() for one in judged]
    scores = [own for own in found if own is not None]
    if len(scores) < len(found):
        lacking = ", ".join(str(one.folder) for one, own in zip(judged, found, strict=True) if own is None)
        return [], f"Differences were not tested: no scores.npy in {lacking}."
    try:
        is_same, subjects = _comparisons(judged[0], arguments.names)
    except (FacekdError, OSError) as error:
        return [], f"Differences were not tested, for the data is not at its place: {error}"
    kept = np.isfinite(scores[0])  # pairs left out of the evaluation
    if not all(np.array_equal(np.isfinite(own), kept) for own in scores[1:]):
        raise DataError("the models have scores for different pairs; evaluate them on the same images")
    is_same, scores = is_same[kept], [own[kept] for own in scores]
    note = ""
    if subjects is not None:
        subjects = np.unique(subjects[kept], return_inverse=True)[1].reshape(-1, 2)
        known = len(np.unique(subjects[is_same, 0]))
        if known < MIN_SUBJECTS:
            subjects, note = None, f" ({known} people are too few to resample)"
    fars = _fars(judged, arguments.fars, len(is_same))
    bootstrap = PairedBootstrap(is_same, subjects, fars, arguments.draws, arguments.seed)
    drawn = [bootstrap.tars(own, one.name) for own, one in zip(scores, judged, strict=True)]
    if subjects is None:
        who = f"comparisons, for people are not known{note}: expect p-values that are too small"
    else:
        who = f"{bootstrap.num_subjects:,} people"
    about = (
        f"Differences: paired bootstrap over {who}; {arguments.draws:,} draws, the same for all models, each with its "
        "own threshold; p is two-sided and not corrected for the number of tests."
    )
    return [differences(drawn[0], other, fars) for other in drawn[1:]], about


def _fars(judged: list[Judged], wanted: tuple[float, ...] | None, num_pairs: int) -> list[float]:
    if wanted is not None:
        return list(wanted)
    measured = [point["far"] for point in judged[0].result["tar_at_far"] if point["tar"] is not None]
    small = [far for far in measured if num_pairs <= MANY_PAIRS or far <= STRICTEST_OF_MANY]
    return small or measured[:1]


def _comparisons(one: Judged, names: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """bool (P,) which pairs are genuine, and (P, 2) who is in them, or None."""
    if one.result["format"] == IJB_FORMAT:
        dataset = one.result["dataset"]
        protocol = load_protocol(dataset["root"], dataset["target"])
        if protocol.fingerprint != dataset["fingerprint"]:
            raise DataError(f"{dataset['root']}: its lists have changed since the evaluation")
        subjects, _ = subjects_of_templates(protocol)
        subjects = np.stack([subjects[protocol.pair_first], subjects[protocol.pair_second]], axis=1)
        fits = np.array_equal(subjects[:, 0] == subjects[:, 1], protocol.is_same)
        return protocol.is_same, subjects if fits else None
    pair_set = load_pair_set(one.result["pair_set"]["path"], one.result["protocol"]["folds"], names)
    return pair_set.is_same, pair_set.subjects


def _pictures(judged: list[Judged]) -> list[str]:
    curves = [_curve(one) for one in judged]
    figures = []
    if all("roc_far" in curve.curves for curve in curves):
        figures.append((draw_verification(curves), "The models over each other, on the same comparisons."))
    if all(any(name.startswith("cmc_") for name in curve.curves) for curve in curves):
        figures.append((draw_identification(curves), "Identification in each gallery."))
    return [html_page.picture(html_page.to_png(figure), text) for figure, text in figures if figure is not None]


def _curve(one: Judged) -> Curve:
    points = one.result.get("tar_at_far") or []
    if one.result["format"] == IJB_FORMAT:
        return Curve(one.name, read_curves(one.folder), points)
    scores = one.scores()
    try:
        is_same, _ = _comparisons(one, None)
    except (FacekdError, OSError):
        return Curve(one.name, {}, points)
    if scores is None:
        return Curve(one.name, {}, points)
    curve = roc_curve(scores[is_same], scores[~is_same])
    return Curve(one.name, {"roc_far": curve.far, "roc_tar": curve.tar}, points)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="facekd report",
        description="Write the report of one evaluation, or compare several models judged alike.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("results", nargs="+", metavar="DIR", help="output folders of `facekd evaluate ijbc` or `facekd evaluate lfw`")
    add("--output", metavar="DIR", help="folder for the comparison; needed with two or more results")
    add(
        "--fars",
        type=comma_separated,
        metavar="F,F",
        help="FARs to test at (default: those measured, up to 1e-3 on large sets)",
    )
    add("--draws", type=int, default=1000, metavar="N", help="of the bootstrap, at least 100 (default %(default)s)")
    add("--seed", type=int, default=0, help="of the draws (default %(default)s)")
    add("--names", metavar="X.txt", help="LFW-style results: the pack's list of names, so that people are resampled")
    arguments = parser.parse_args(argv)
    if len(arguments.results) > 1 and not arguments.output:
        parser.error("--output: give a folder for the comparison")
    if len(arguments.results) == 1 and arguments.output:
        parser.error("--output: the report of one result goes into its own folder; name two or more to compare")
    if arguments.draws < 100:
        parser.error(f"--draws {arguments.draws}: give at least 100")
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}: give a whole number from 0")
    if arguments.fars is not None and not all(0 < far <= 1 for far in arguments.fars):
        parser.error("--fars: each must lie in (0, 1]")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
