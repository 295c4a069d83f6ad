"""The page of the quickstart: what was generated, how training went, and what the models are worth on people unseen."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.data.pair_packs.reading import read_pair_pack
from facekd.training.logbook import read_log
from facekd.utils import html as html_page
from facekd.utils.files import write_text
from facekd.verification import roc_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(folder: Path, models: list[dict[str, Any]]) -> None:
    """Write `report.html` into the folder of a quickstart: one file, pictures inside.

    Args:
        folder: of the quickstart, its steps complete.
        models: the `models` of its results.json.
    """
    trained = [model["name"] for model in models if (folder / model["name"] / "log.jsonl").exists()]
    best = min(models, key=lambda model: model["eer"])
    parts = [
        "<p>Generated people were packed into RecordIO shards and a MobileFaceNet was trained on them by each margin. "
        "The ArcFace model then taught students of half its width: by its embeddings (L2), by the student's own "
        "classifier (KD), through its frozen classifier (TH-KD); in SH-KD the teacher was trained under the classifier "
        "of the student trained alone. Each was exported as ONNX and judged on pairs of <em>other</em> generated "
        "people. Generated faces say whether the machinery works and learns; they say nothing about accuracy on real "
        "faces.</p>"
        "<p>One training each: differences between students of less than a few points are chance. With several seeds "
        "and intervals: <code>facekd study configs/study/generated_faces.yaml</code></p>",
        _table(models),
        html_page.picture(
            html_page.to_png(_draw_roc(folder, models)),
            "True accept rate against false accept rate on people not in the training data. The dotted line is where "
            "both errors are equal. The untrained network shows what the task gives away for free. Intervals: 95 %, "
            "over people.",
        ),
        html_page.picture(
            html_page.to_png(_draw_losses(folder, trained)),
            "Loss during training. Margins differ in how much they demand, so compare the shapes, not the heights.",
        ),
        html_page.picture(_read(folder / "data", "*.png"), "Training data: a row is a person."),
        html_page.picture(
            (folder / best["name"] / "verification" / "hardest_pairs.png").read_bytes(),
            f"What {html.escape(best['name'])} finds hardest.",
        ),
        "<h2>Go on</h2><p>The commands behind each step are in <code>steps.json</code>; all numbers are in "
        "<code>results.json</code> and in each model's <code>verification/results.json</code>. To train on your own "
        "shards: <code>facekd train configs/train/ms1mv3_mobilefacenet_cosface.yaml --data.train FOLDER</code></p>",
    ]
    write_text(folder / "report.html", html_page.page("facekd quickstart", parts))


def _table(models: list[dict[str, Any]]) -> str:
    fars = [point["far"] for point in models[0]["tar_at_far"]]
    head = ["model", "method", "accuracy", "EER", *(f"TAR@FAR {far:g}" for far in fars)]
    rows = []
    for model in models:
        low, high = model["eer_ci95"]
        eer = f"{model['eer']:.2%} <small>({low:.1%} to {high:.1%})</small>"
        cells = [html.escape(model["name"]), html.escape(model["method"]), f"{model['accuracy']['mean']:.2%}", eer]
        for point in model["tar_at_far"]:
            reason = html.escape(point.get("reason") or "")
            cells.append(f"{point['tar']:.2%}" if point["tar"] is not None else f'<span title="{reason}">n/a</span>')
        rows.append(cells)
    return html_page.table(head, rows)


def _read(folder: Path, pattern: str) -> bytes:
    return next(iter(sorted(folder.glob(pattern)))).read_bytes()


def _draw_roc(folder: Path, models: list[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    is_same = read_pair_pack(folder / "data" / "test.bin").is_same
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    floor = 0.5 / int((~is_same).sum())
    for model in models:
        scores = np.load(folder / model["name"] / "verification" / "scores.npy")
        curve = roc_curve(scores[is_same], scores[~is_same])
        label = f"{model['name']}, EER {model['eer']:.2%}"
        axes.step(np.maximum(curve.far, floor), curve.tar, where="post", label=label)
    rates = np.geomspace(floor, 1, 200)
    axes.plot(rates, 1 - rates, ":", color="0.5", lw=1)
    axes.set(xscale="log", xlim=(floor, 1), ylim=(0, 1.01), xlabel="false accept rate", ylabel="true accept rate")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def _draw_losses(folder: Path, names: list[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        entries = read_log(folder / name, "train")
        axes.plot([entry["images_seen"] for entry in entries], [entry["loss"] for entry in entries], label=name)
    axes.set(xlabel="images seen", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
