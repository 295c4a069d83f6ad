"""The report of a study: tables in Markdown, and one HTML page with the pictures inside."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.data.pair_packs.reading import read_pair_pack
from facekd.experiments.study_config import Study
from facekd.experiments.study_results import verification_folder
from facekd.training.logbook import read_log
from facekd.utils import html as html_page
from facekd.utils.files import write_json, write_text
from facekd.verification.operating_points import first_refused_score, num_accepted_above, num_allowed_false_accepts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def write_report(study: Study, results: dict[str, Any]) -> None:
    """Write results.json, results.md and report.html into the folder of the study."""
    write_text(study.output / "results.md", to_markdown(results))
    write_text(study.output / "report.html", _to_html(study, results))
    write_json(study.output / "results.json", results)  # last: where it is, the rest is complete


def to_markdown(results: Mapping[str, Any]) -> str:
    """The tables of a study, one a pack, and what their columns mean."""
    lines = [f"# {results['title']}", ""]
    for pack in results["packs"]:
        head, rows = _table(results, pack["name"])
        if not rows:
            continue
        lines += [f"{_describe_pack(pack)}", ""]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" + "---:|" * (len(head) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join([*lines, *_notes(results)]) + "\n"


def _describe_pack(pack: Mapping[str, Any]) -> str:
    people = f" of {pack['num_subjects']:,} people" if pack.get("num_subjects") else ""
    pairs = f"{pack['num_genuine']:,} genuine and {pack['num_impostor']:,} impostor pairs{people}"
    return f"{pack['name']}: {pairs}; {'; or '.join(pack['protocols'])}."


def _table(results: Mapping[str, Any], pack: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; cells are text."""
    of_pack = {
        method["name"]: method["packs"][pack] for method in results["methods"] if pack in method.get("packs", {})
    }
    if not of_pack:
        return [], []
    fars = next(iter(of_pack.values()))["tar_at_far"]
    measurable = [
        number
        for number in range(len(fars))
        if all(number < len(one["tar_at_far"]) and one["tar_at_far"][number]["tar"] for one in of_pack.values())
    ]
    to_reference = f"to {results['reference']}"
    head = ["method", "n", "EER %", to_reference, "accuracy %", to_reference]
    for number in measurable:
        head += [f"TAR % at FAR {fars[number]['far']:g}", to_reference]
    head += ["training speed"]
    rows = []
    for method in results["methods"]:
        found = of_pack.get(method["name"])
        if found is None:
            continue
        measures = [found["eer"], found["accuracy"], *(found["tar_at_far"][number]["tar"] for number in measurable)]
        row = [method["name"], str(found["eer"]["n"])]
        for measure in measures:
            row += [_value(measure), _difference(measure["difference"])]
        rows.append([*row, _speed(method["cost"])])
    return head, rows


def _value(measure: Mapping[str, Any]) -> str:
    std = measure["std"]
    return f"{100 * measure['mean']:.2f}" + (f" {PLUS_MINUS} {100 * std:.2f}" if std is not None else "")


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    text = _signed(difference["mean"])
    if difference["ci95"] is not None:
        low, high = difference["ci95"]
        text += f" ({_signed(low)} to {_signed(high)})"
    return text


def _signed(share: float) -> str:
    rounded = f"{100 * share:+.2f}"
    return rounded.replace("-", MINUS)


def _speed(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return ""
    text = f"{cost['mean_images_per_second']:,.0f} images/s"
    return text + (f", {cost['relative_speed']:.2f}" if cost["relative_speed"] is not None else "")


def _notes(results: Mapping[str, Any]) -> list[str]:
    compared = [
        method
        for method in results["methods"]
        if any(pack["eer"]["difference"] for pack in method.get("packs", {}).values())
    ]
    notes = [
        f"Values: mean {PLUS_MINUS} standard deviation over n seeds. Differences in points to {results['reference']}, "
        f"with the {results['interval']}.",
    ]
    if len(compared) > 2:
        notes.append(
            f"{len(compared)} methods are compared with one reference: were all of them worth the same, about one such "
            "interval in twenty would still leave out 0."
        )
    conditions = results.get("conditions")
    if any(method["cost"] for method in results["methods"]):
        machine = ""
        if conditions:
            where = ", ".join(conditions["gpus"]) or conditions["processor"]
            machine = f" {where}, {conditions['jobs']} at once, {conditions['threads']} threads each."
        notes.append(
            "Training speed: median over the log lines of a run, mean over seeds; after the comma its ratio to "
            f"{results['reference']} of the same seed.{machine}"
        )
    notes += [f"{method['name']}: {method['note']}." for method in results["methods"] if method["note"]]
    if results["missing"]:
        notes.append(f"Not judged yet: {'; '.join(results['missing'])}.")
    if results.get("command"):
        notes.append(f"`{results['command']}`")
    return [line for note in notes for line in (note, "")]


def _to_html(study: Study, results: Mapping[str, Any]) -> str:
    parts = []
    for pack in results["packs"]:
        head, rows = _table(results, pack["name"])
        if not rows:
            continue
        cells = [[html.escape(cell) for cell in row] for row in rows]
        parts.append(f"<h2>{html.escape(pack['name'])}</h2><p>{html.escape(_describe_pack(pack))}</p>")
        parts.append(html_page.table([html.escape(cell) for cell in head], cells))
        parts.append(
            html_page.picture(
                html_page.to_png(draw_values(results, pack["name"])),
                "Each point is a run; a line joins the runs of one seed, so that methods compare along it. "
                "The bar is the mean.",
            )
        )
        parts.append(
            html_page.picture(
                html_page.to_png(draw_rocs(study, results, pack["name"])),
                "True accept rate against false accept rate: mean over seeds at each FAR, and the range of the seeds. "
                "Below one false accept nothing is measured.",
            )
        )
    trained = [run for run in study.runs if run.seed == study.seeds[0] and read_log(run.folder, "train")]
    if trained:
        curves = {run.method.name: read_log(run.folder, "train") for run in trained}
        parts.append(
            html_page.picture(
                html_page.to_png(draw_losses(curves)),
                f"Loss during training, seed {study.seeds[0]}. Losses of different methods are different sums: compare "
                "shapes, not heights.",
            )
        )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(results) if note)
    return html_page.page(results["title"], [*parts, "<h2>Notes</h2>", notes])


def draw_values(results: Mapping[str, Any], pack: str) -> Figure:
    """The EER of every run: a column a method, a line a seed."""
    from matplotlib.figure import Figure

    methods = [method for method in results["methods"] if pack in method.get("packs", {})]
    figure = Figure(figsize=(max(5.0, 1.1 * len(methods) + 1.5), 4.0), layout="constrained")
    axes: Axes = figure.subplots()
    seeds = sorted({seed for method in methods for seed in method["packs"][pack]["eer"]["values"]}, key=int)
    for number, seed in enumerate(seeds):
        columns, values = [], []
        for column, method in enumerate(methods):
            value = method["packs"][pack]["eer"]["values"].get(seed)
            if value is not None:
                columns.append(column)
                values.append(100 * value)
        axes.plot(columns, values, "o-", ms=4, lw=0.6, alpha=0.7, color=f"C{number % 10}", label=f"seed {seed}")
    for column, method in enumerate(methods):
        mean = 100 * method["packs"][pack]["eer"]["mean"]
        axes.plot([column - 0.3, column + 0.3], [mean, mean], color="black", lw=2)
    axes.set_xticks(range(len(methods)), [method["name"] for method in methods], rotation=30, ha="right")
    axes.set_ylabel("EER %")
    axes.set_title(pack, fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
    return figure


def draw_rocs(study: Study, results: Mapping[str, Any], pack: str) -> Figure:
    """Mean ROC of each method over its seeds."""
    from matplotlib.figure import Figure

    file = next(one for one in study.packs if one.name == pack).pairs
    is_same = read_pair_pack(file).is_same
    num_impostor = int((~is_same).sum())
    fars = np.geomspace(1 / num_impostor, 1, 300)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Axes = figure.subplots()
    methods = {method["name"]: method for method in results["methods"] if pack in method.get("packs", {})}
    for number, name in enumerate(methods):
        curves = []
        for seed in methods[name]["packs"][pack]["eer"]["values"]:
            scores = np.load(verification_folder(study, study.run_of(name, int(seed)), pack) / "scores.npy")
            curves.append(tar_at(scores[is_same], scores[~is_same], fars))
        eer = 100 * methods[name]["packs"][pack]["eer"]["mean"]
        color = f"C{number % 10}"
        axes.plot(
            fars, np.mean(curves, axis=0), color=color, lw=1.6, label=f"{name}, EER {eer:.2f} % (n {len(curves)})"
        )
        axes.fill_between(fars, np.min(curves, axis=0), np.max(curves, axis=0), color=color, alpha=0.12, lw=0)
    axes.plot(fars, 1 - fars, ":", color="0.5", lw=1)
    axes.set(xscale="log", xlim=(fars[0], 1), ylim=(None, 1.01), xlabel="false accept rate", ylabel="true accept rate")
    axes.set_title(pack, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def tar_at(genuine: np.ndarray, impostor: np.ndarray, fars: np.ndarray) -> np.ndarray:
    """The largest true accept rate whose false accept rate does not exceed each of `fars`, by the steps of the ROC."""
    refused = first_refused_score(np.append(-np.inf, np.sort(impostor)), num_allowed_false_accepts(fars, len(impostor)))
    return num_accepted_above(np.sort(genuine)[::-1], refused) / len(genuine)


def draw_losses(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss against images seen, a line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    for name, entries in curves.items():
        axes.plot([entry["images_seen"] for entry in entries], [entry["loss"] for entry in entries], label=name)
    axes.set(xlabel="images seen", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
