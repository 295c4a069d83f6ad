"""Writes the page of the quickstart: the training data, how training went, and how the models do on unseen people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import command_text
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.experiments.classifier_table import EXPLANATION, centres_table, read_centres
from facekd.pages.figures import SINGLE, RocLine, chart, draw_losses, draw_roc, new_figure
from facekd.pages.html import Picture, write_page
from facekd.pages.numbers import interval, percent
from facekd.pages.tables import Table
from facekd.results.kept_scores import read_checked_scores
from facekd.training.logbook import read_log
from facekd.verification import roc_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(folder: Path, models: list[dict[str, Any]]) -> None:
    """Writes `report.html` into the folder of a quickstart.

    Args:
        folder: the folder of the quickstart, all its steps complete.
        models: the `models` of its results.json.
    """
    trained = [model["name"] for model in models if (folder / model["name"] / "log.jsonl").exists()]
    centres = {name: found for name in trained if (found := read_centres(folder / name))}
    best = min(models, key=lambda model: model["eer"])
    hardest = folder / best["name"] / "verification" / "hardest_pairs.png"

    # Curves first, then faces.
    pictures = [
        chart(
            _draw_rocs(folder, models),
            "True accept rate against false accept rate on people who are not in the training data. The dotted line "
            "is where both errors are equal. The untrained network shows how far one gets without learning.",
        ),
        chart(
            draw_losses({name: read_log(folder / name, "train", ("loss",)) for name in trained}),
            "Loss during training. Margins differ in how much they demand, so compare the shapes, not the heights.",
        ),
        Picture(_read_first(folder / "data", "*.png"), "Training data: each row is a person."),
        Picture(hardest.read_bytes(), f"The pairs that {best['name']} finds hardest."),
    ]
    write_page(
        folder / "report.html",
        "quickstart",
        title="facekd quickstart",
        results=_table(models),
        reasons=[*_reasons(models), *([EXPLANATION] if centres else [])],
        classifiers=centres_table(centres, "model"),
        pictures=pictures,
        next=_next_steps(folder, best["name"]),
    )


def _next_steps(folder: Path, best: str) -> list[str]:
    """Says how to go on with faces of one's own."""
    report = command_text("report", [str(folder / best / "verification")])
    return [
        "Your own photographs, a folder for each person, to aligned faces: "
        "`facekd data align PHOTOS ALIGNED --detector scrfd.onnx`",
        "Is a model good for them? `facekd evaluate folder --images ALIGNED --model MODEL.onnx --output results/mine`",
        "Train on them: "
        "`facekd train configs/debug.yaml --data.train ALIGNED --data.image_size 112 --output runs/mine`, "
        "then `facekd report runs/mine`",
        "Train on MS1MV3: "
        "`facekd train configs/train/ms1mv3_mobilefacenet_0.45g_arcface.yaml --data.train FOLDER --output runs/mbf`",
        f"The thresholds and the hardest pairs of {best}: `{report}`",
    ]


def _table(models: list[dict[str, Any]]) -> Table:
    fars = [point["far"] for point in models[0]["tar_at_far"]]
    rows = []
    for model in models:
        eer = f"{percent(model['eer'])} ({interval(model['eer_ci95'])})"
        tars = [percent(point["tar"]) for point in model["tar_at_far"]]
        rows.append([model["name"], model["method"], percent(model["accuracy"]["mean"]), eer, *tars])
    return Table("", ["model", "method", "accuracy %", "EER %", *(f"TAR % at FAR {far:g}" for far in fars)], rows)


def _reasons(models: list[dict[str, Any]]) -> list[str]:
    """Says why some TARs are missing, one sentence for each reason."""
    points = [point for model in models for point in model["tar_at_far"]]
    return list(dict.fromkeys(point["reason"] for point in points if point.get("reason")))


def _read_first(folder: Path, pattern: str) -> bytes:
    return min(folder.glob(pattern)).read_bytes()


def _draw_rocs(folder: Path, models: list[dict[str, Any]]) -> Figure:
    is_same = read_pair_pack(folder / "data" / "test.bin").is_same
    lines = []
    for model in models:
        verification = folder / model["name"] / "verification"
        remedy = f"delete {verification} and run the same command again"
        scores = read_checked_scores(verification, model, is_same, remedy)
        curve = roc_curve(scores[is_same], scores[~is_same])
        lines.append(RocLine(f"{model['name']}, EER {percent(model['eer'])} %", curve.far, curve.tar))
    figure, [axes] = new_figure(SINGLE)
    draw_roc(axes, lines, "ROC on unseen people")
    return figure
