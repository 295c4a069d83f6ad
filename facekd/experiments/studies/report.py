"""Writes the report of a study: tables in Markdown, and one HTML page with the pictures inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.commands.command_line import command_text
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError
from facekd.experiments.classifier_table import EXPLANATION
from facekd.experiments.studies.comparison import REMEDY
from facekd.experiments.studies.config import Study
from facekd.experiments.studies.evaluation import CLASSIFICATION, PEOPLE, main_of, measured_in
from facekd.experiments.studies.results import FILES, read_verification, verification_folder
from facekd.experiments.studies.tables import PLUS_MINUS, classifiers_table, describe_pack, pack_table, to_csv, to_latex
from facekd.files.result_folder import finish_results, start_results
from facekd.files.writing import write_text
from facekd.pages.figures import RocLine, chart, color_of, draw_losses, draw_roc, label_axes, new_figure, save_figure
from facekd.pages.html import render_page
from facekd.pages.markdown import code, markdown_text
from facekd.pages.numbers import percent
from facekd.results.kept_scores import read_checked_scores
from facekd.results.reading import read_curves
from facekd.training.logbook import read_log
from facekd.utils.wording import counted
from facekd.verification.metrics import tar_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_KINDS = ("svg", "pdf")  # beside the page, which has the figures inside
CAPTIONS = {
    "values": "Each point is a run. A line joins the runs of one seed, so that methods can be compared along it. The "
    "bar is the mean.",
    "roc": "True accept rate against false accept rate: mean over seeds at each FAR, and the range of the seeds. Below "
    "one false accept nothing is measured.",
}
MAX_LEGEND = 6  # seeds; the lines of more need no names


def write_report(study: Study, results: dict[str, Any]) -> None:
    """Writes the page, tables and figures of a study into its folder, and results.json last."""
    # First what reads the runs' scores, which may be damaged.
    figures = _figures(study, results)
    page = _render_page(study, results, figures)
    vector = [f"{name}.{kind}" for name in figures for kind in FIGURE_KINDS]
    start_results(study.output, (*FILES, *vector))
    write_text(study.output / "results.md", to_markdown(results))
    write_text(study.output / "results.csv", to_csv(results))
    write_text(study.output / "results.tex", to_latex(results))
    for name, figure in figures.items():
        for kind in FIGURE_KINDS:
            save_figure(figure, study.output / f"{name}.{kind}")
    write_text(study.output / "report.html", page)
    finish_results(study.output, results)


def _figures(study: Study, results: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws the figures of each pack that methods are evaluated on, by the names of their files."""
    found = {}
    for pack in (pack["name"] for pack in results["packs"] if pack_table(results, pack["name"]).rows):
        found[f"{pack}_{study.evaluation.measures[0].metric}"] = draw_values(results, pack)
        if study.evaluation.has_pairs:
            found[f"{pack}_roc"] = draw_rocs(study, results, pack)
    return found


def to_markdown(results: Mapping[str, Any]) -> str:
    """Returns the tables of a study, one for each pack, and notes on what their columns mean."""
    parts = [f"# {markdown_text(results['title'])}", ""]
    for pack in results["packs"]:
        table = pack_table(results, pack["name"])
        if table.rows:
            parts += [markdown_text(describe_pack(pack)), "", table.to_markdown()]
    if (classifiers := classifiers_table(results)).rows:
        parts.append(classifiers.to_markdown())
    for note in _notes(results):
        parts += [markdown_text(note), ""]
    if results.get("command"):
        parts += [code(results["command"]), ""]
    return "\n".join(parts) + "\n"


def to_text(results: Mapping[str, Any]) -> str:
    """Returns the same for a terminal: tables in columns, and no marks of Markdown."""
    parts = [f"{results['title']}\n"]
    for pack in results["packs"]:
        table = pack_table(results, pack["name"])
        if table.rows:
            parts += [describe_pack(pack), table.to_text()]
    if (classifiers := classifiers_table(results)).rows:
        parts.append(classifiers.to_text())
    parts += [note.replace("`", "'") for note in _notes(results)]
    return "\n".join(parts)


def _notes(results: Mapping[str, Any]) -> list[str]:
    """Explains the columns, and says what is missing."""
    notes = [
        f"Values: mean {PLUS_MINUS} standard deviation over n seeds. Differences in points to {results['reference']}, "
        f"with the {results['interval']}.",
    ]

    notes += _notes_on_fars(results)

    # Many comparisons with one baseline, and methods without one.
    notes += _notes_on_tests(results)
    notes += _notes_on_others(results)

    if any(method.get("centres") for method in results["methods"]):
        notes.append(f"{EXPLANATION} Means over seeds.")

    # Speed, and the machine that it was measured on.
    if any(method["cost"] for method in results["methods"]):
        conditions = results.get("conditions")
        machine = ""
        if conditions:
            where = ", ".join(conditions["gpus"]) or conditions["processor"]
            machine = f" {where}, {conditions['jobs']} at once, {counted(conditions['threads'], 'thread')} each."
        notes.append(
            "Training speed: median over the log lines of a run, mean over seeds; after the comma its ratio to "
            f"{results['reference']} of the same seed.{machine}"
        )

    # What the stages before a method took.
    if any(len((method.get("images") or {}).get("by_stage", {})) > 1 for method in results["methods"]):
        notes.append(
            "Images seen: those of the run itself; in brackets with those of the stages it needs, each counted once. A "
            "wider network computes more for an image. `budget: METHOD` makes a control of as many images."
        )

    # Models of others, whose numbers depend on a guess.
    notes += _assumptions(results)

    # Notes of the study itself.
    notes += [f"{method['name']}: {method['note']}." for method in results["methods"] if method["note"]]
    if results["missing"]:
        notes.append(f"Not evaluated yet: {'; '.join(results['missing'])}.")
    return notes


def _assumptions(results: Mapping[str, Any]) -> list[str]:
    """Says whose preprocessing was assumed."""
    is_classified = results["evaluation"] == CLASSIFICATION.verb
    takes = "" if is_classified else " The method's `evaluate` takes mean, std and color."
    return [
        f"{method['name']}: its model's file does not record {', '.join(method['assumed'])}: assumed; if that is "
        f"wrong, the model may be better than these numbers.{'' if method['verb'] == 'results' else takes}"
        for method in results["methods"]
        if method.get("assumed")
    ]


def _notes_on_fars(results: Mapping[str, Any]) -> list[str]:
    """Says for which FARs there is no column."""
    notes = []
    for pack in results["packs"]:
        own = [one for one in results["methods"] if one["verb"] != "results"]
        methods = [one["packs"] for one in own if pack["name"] in one.get("packs", {})]
        points = [point for packs in methods for point in packs[pack["name"]].get("tar_at_far", ())]
        lacking = dict.fromkeys(f"{point['far']:g}" for point in points if point["tar"] is None)
        if lacking:
            notes.append(
                f"{pack['name']}: TAR at FAR {', '.join(lacking)} is not shown, because "
                f"{counted(pack['num_impostor'], 'impostor pair is', 'impostor pairs are')} too few to measure it."
            )
    return notes


def _notes_on_tests(results: Mapping[str, Any]) -> list[str]:
    """Explains the p-values, and says which methods could not be compared over all their seeds."""
    trained = [
        method
        for method in results["methods"]
        if method.get("packs") and method["verb"] != "none" and method["name"] != results["reference"]
    ]
    if not trained:
        return []
    differences = {method["name"]: main_of(method).get("difference") for method in trained}
    compared = max(((one or {}).get("num_compared", 0) for one in differences.values()), default=0)
    notes = []
    if compared:
        corrected = (
            f", corrected by Holm's method for the {counted(compared, 'method')} of a column" if compared > 1 else ""
        )
        notes.append(
            f"p: how often two equally good methods would differ by as much{corrected}; a p below 0.05 shows a "
            "difference, a larger one leaves it open. The interval is of one comparison by itself. Decide beforehand "
            "which column counts: columns are not corrected for each other."
        )
    # Seeds that only one of the two has.
    reference = next(one for one in results["methods"] if one["name"] == results["reference"])
    with_one: list[str] = []
    for method in (method for method in trained if method["verb"] != "results"):
        difference, own = differences[method["name"]], _seeds_of(method)
        common = [seed for seed in own if seed in _seeds_of(reference)]
        if difference is None:
            notes.append(
                f"{method['name']} is not compared: no seed of it ({', '.join(own)}) is one of "
                f"{results['reference']}'s ({', '.join(_seeds_of(reference)) or 'none evaluated'})."
            )
        elif difference["ci95"] is None:
            with_one.append(method["name"])
        elif len(common) < max(len(own), len(_seeds_of(reference))):
            notes.append(
                f"{method['name']} is compared over the seeds that both have ({', '.join(common)}); its mean is over "
                f"{', '.join(own)}."
            )
    if with_one:
        notes.append(f"{', '.join(with_one)}: one seed in common gives no interval; two are needed, six are better.")
    return notes


def _notes_on_others(results: Mapping[str, Any]) -> list[str]:
    """Says of methods that were not trained here where their values come from, and how they are compared."""
    notes = []
    for method in results["methods"]:
        if method["verb"] != "results" or not method.get("packs"):
            continue
        about = method["results"]
        made = (
            "which `facekd evaluate` wrote on the same set"
            if about["by_facekd"]
            else "as another program gave them: that it measured the same images in the same way was not checked"
        )
        measured = [one for entry in method["packs"].values() for _, one in measured_in(entry) if one]
        compared = (
            "It is compared without pairing (Welch's t-test); the interval covers other trainings"
            if any((one["difference"] or {}).get("ci95") for one in measured)
            else "It has no interval, which takes two values and two seeds of the baseline or more"
        )
        unused = "; ".join(about["unused"])
        number = counted(max(one["n"] for one in measured), "value")
        notes.append(
            f"{method['name']} was not trained here: {number} from `{about['path']}`, {made}. {compared}."
            f"{f' Not shown, because the study does not measure it: {unused}.' if unused else ''}"
        )
    return notes


def _seeds_of(method: Mapping[str, Any]) -> list[str]:
    return list(main_of(method).get("values", ()))


def _render_page(study: Study, results: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    # A section for each pack.
    packs = []
    for pack in results["packs"]:
        table = pack_table(results, pack["name"])
        if table.rows:
            kinds = {study.evaluation.measures[0].metric: "values", "roc": "roc"}
            drawn = {CAPTIONS[caption]: figures.get(f"{pack['name']}_{kind}") for kind, caption in kinds.items()}
            pictures = [chart(figure, caption) for caption, figure in drawn.items() if figure is not None]
            description = describe_pack(pack)
            packs.append({"name": pack["name"], "description": description, "table": table, "pictures": pictures})

    # The loss curves of the first seed.
    logs = {
        run.method.name: read_log(run.folder, "train", ("loss",)) for run in study.runs if run.seed == study.seeds[0]
    }
    logs = {name: entries for name, entries in logs.items() if entries}
    losses = None
    if logs:
        caption = (
            f"Loss during training, seed {study.seeds[0]}. Losses of different methods are different sums: compare "
            "shapes, not heights."
        )
        losses = chart(draw_losses(logs), caption)
    return render_page(
        "study",
        title=results["title"],
        assumptions=_assumptions(results),
        packs=packs,
        classifiers=classifiers_table(results),
        losses=losses,
        notes=_notes(results),
        command=results.get("command"),
        next=_next_steps(study, results),
    )


def _next_steps(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Says how to make the study more certain, and how to use its models."""
    steps = [
        "More certain: more `seeds` in the study's file, then the same command again; what is done is not repeated"
    ]
    evaluated = [run for run in study.runs if (run.folder / "log.jsonl").exists()]
    if evaluated:
        one = str(evaluated[0].folder)
        steps.append(f"The training of a run: `{command_text('report', [one])}`")
        steps.append(f"Its model as ONNX: `{command_text('export', [one, '--output', 'model.onnx'])}`")
    return steps


def draw_values(results: Mapping[str, Any], pack: str) -> Figure:
    """Draws the main measure of every run: one column for each method, one line for each seed."""
    on_pack = [method for method in results["methods"] if pack in method.get("packs", {})]
    methods = [method for method in on_pack if measured_in(method["packs"][pack])[0][1]]
    found = [measured_in(method["packs"][pack])[0] for method in methods]
    measured = [values for _, values in found]
    figure, [axes] = new_figure((max(5.0, 1.1 * len(methods) + 1.5), 4.0))
    figure.set_layout_engine("constrained")  # the names below may be long

    # The runs, seed by seed.
    others = [column for column, method in enumerate(methods) if method["verb"] == "results"]
    own = [one for column, one in enumerate(measured) if column not in others]
    seeds = sorted({seed for one in own for seed in one["values"]}, key=int)
    for number, seed in enumerate(seeds):
        values = [one["values"].get(seed) for one in measured]
        columns = [column for column, value in enumerate(values) if value is not None]
        percents = [100 * value for value in values if value is not None]
        axes.plot(columns, percents, "o-", ms=4, lw=0.6, alpha=0.7, color=color_of(number), label=f"seed {seed}")

    # Values from elsewhere belong to no seed.
    for column in others:
        percents = [100 * value for value in measured[column]["values"].values()]
        axes.plot([column] * len(percents), percents, "D", ms=4, color="gray")

    # The means, as bars across.
    for column, one in enumerate(measured):
        mean = 100 * one["mean"]
        axes.plot([column - 0.3, column + 0.3], [mean, mean], color="black", lw=2)
    label_axes(axes, pack, "", found[0][0].column, "best" if len(seeds) <= MAX_LEGEND else None)
    axes.set_xticks(range(len(methods)), [method["name"] for method in methods], rotation=30, ha="right")
    axes.grid(visible=False, axis="x")
    return figure


def draw_rocs(study: Study, results: Mapping[str, Any], pack: str) -> Figure:
    """Draws the mean ROC of each method over its seeds, and the range of the seeds as a band."""
    figure, [axes] = new_figure((8, 5))
    draw_roc(axes, roc_lines(study, results, pack), pack)
    return figure


def roc_lines(study: Study, results: Mapping[str, Any], pack: str) -> list[RocLine]:
    """Returns for each method that is evaluated on a pack its mean ROC over the seeds, with their range as a band."""
    described = next(one for one in results["packs"] if one["name"] == pack)
    fars = np.geomspace(1 / described["num_impostor"], 1, 300)
    curve_of = _curve_of_people if study.evaluation is PEOPLE else _curve_of_pack
    lines = []
    for method in results["methods"]:
        found = method.get("packs", {}).get(pack)
        if found is None or method["verb"] == "results":  # no scores were kept here
            continue
        curves = []
        for seed in found["eer"]["values"]:
            run = study.run_of(method["name"], int(seed))
            result = read_verification(study, run, pack)
            assert result is not None  # its EER is among the values
            curves.append(curve_of(study, verification_folder(study, run, pack), result, pack, fars))
        label = f"{method['name']}, EER {percent(found['eer']['mean'])} % (n {len(curves)})"
        band = np.min(curves, axis=0), np.max(curves, axis=0)
        lines.append(RocLine(label, fars, np.mean(curves, axis=0), band=band))
    return lines


def _curve_of_pack(study: Study, folder: Path, result: dict[str, Any], pack: str, fars: np.ndarray) -> np.ndarray:
    """Returns the TAR of a run at each FAR, from the scores it left, which are counted again first."""
    is_same = read_pair_pack(next(one for one in study.packs if one.name == pack).pairs).is_same
    scores = read_checked_scores(folder, result, is_same, REMEDY)
    return tar_curve(scores[is_same], scores[~is_same], fars)


def _curve_of_people(study: Study, folder: Path, result: dict[str, Any], pack: str, fars: np.ndarray) -> np.ndarray:
    """Returns the TAR of a run at each FAR, from the ROC it left: that of the largest FAR that is not above."""
    curves = read_curves(folder, result)
    if "roc_far" not in curves:
        raise DataError(f"{folder / 'curves.npz'}: is gone; {REMEDY}")
    at = np.searchsorted(curves["roc_far"], fars * (1 + 1e-12), side="right") - 1
    return curves["roc_tar"][np.maximum(at, 0)]
