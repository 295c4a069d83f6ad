"""Writes the page of a pipeline: its stages with their commands, and how their classifiers and class means compare."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from facekd.commands.command_line import command_text
from facekd.experiments.classifier_table import EXPLANATION, centres_table, read_centres, read_rebuilt
from facekd.experiments.command_runner import Step
from facekd.experiments.sharing_stages import SHARED_FILE, STAGES, Pipeline
from facekd.pages.tables import Table
from facekd.training.logbook import read_log

if TYPE_CHECKING:
    from facekd.pages.html import Picture


def write_report(pipeline: Pipeline, steps: Sequence[Step]) -> None:
    """Writes `report.html` into the folder of a pipeline.

    Args:
        pipeline: the pipeline.
        steps: its steps, all of them done.
    """
    from facekd.pages.html import write_page

    centres = {stage: found for stage in STAGES if (found := read_centres(pipeline.output / stage))}
    if (pipeline.output / SHARED_FILE).exists() and pipeline.plan.shared_head != "rows":
        centres["shared"] = read_rebuilt(pipeline.output / SHARED_FILE)
    write_page(
        pipeline.output / "report.html",
        "pipeline",
        title=f"classifier sharing: {pipeline.output.name}",
        stages=Table("", ["stage", "command"], [[step.title, shlex.join(step.command)] for step in steps]),
        classifiers=centres_table(centres, "stage"),
        notes=[EXPLANATION],
        losses=_draw_losses(pipeline),
        next=_next_steps(pipeline),
    )


def _next_steps(pipeline: Pipeline) -> list[str]:
    """Says how to judge and to look at the new student."""
    words = ["--model", str(pipeline.output / "model.onnx"), "--pairs", "lfw.bin", "--output", "RESULTS"]
    return [
        f"Judge the new student, which is model.onnx: `{command_text('evaluate lfw', words)}`",
        f"Its training in detail: `{command_text('report', [str(pipeline.output / STAGES[-1])])}`",
        "Is it better than other ways of teaching, over seeds? `facekd study configs/study/generated_faces.yaml` is an "
        "example",
    ]


def _draw_losses(pipeline: Pipeline) -> Picture | None:
    from facekd.pages.figures import chart, draw_losses

    logs = {stage: read_log(pipeline.output / stage, "train", ("loss",)) for stage in STAGES}
    logs = {stage: entries for stage, entries in logs.items() if entries}
    if not logs:
        return None
    caption = "Loss during training. Losses of different stages are different sums: compare shapes, not heights."
    return chart(draw_losses(logs), caption)
