"""Writes the page of a training run from its `log.jsonl`: loss, rate, gradient norms, validation, throughput.

It reads the log and pictures of the run, so it can be written while the run goes on, and without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import command_text
from facekd.errors import DataError, FacekdError
from facekd.pages.figures import (
    LINE_WIDTH,
    MOST_LINES,
    PAIR,
    chart,
    color_of,
    in_legend,
    label_axes,
    new_figure,
    show_plain_powers,
    show_whole_numbers,
    style_of,
)
from facekd.pages.html import Picture, png_beside, write_page
from facekd.pages.numbers import decimal
from facekd.pages.tables import Table
from facekd.training.logbook.centre_maps import draw_centre_maps
from facekd.training.logbook.log_file import is_number, read_log
from facekd.utils.progress import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = "report.html"
LONG_RUN_SECONDS = 60.0
DIAGNOSTICS = "diagnostics.png"  # of a distillation
SHARES = ("accuracy", "eer", "tar_at", "top")  # how names of what validators measure from 0 to 1 begin
MOST_ROWS = 200  # of the table: one line of a log may name tens of thousands of numbers
Entries = Sequence[Mapping[str, Any]]


def write_run_page(folder: Path) -> Path:
    """Writes `report.html` into the folder of a run, which may still go on.

    Args:
        folder: the folder of `facekd train` or `facekd distill`.

    Returns:
        The file written.

    Raises:
        DataError: the folder has no log, or one without a line about training.
        OSError: a file cannot be read or written.
    """
    entries, validations = read_log(folder, "train"), read_log(folder, "validation")
    if not entries:
        raise DataError(f"{folder / 'log.jsonl'}: has no line about training yet; give the folder of a run that has")
    path = folder / PAGE
    write_page(
        path,
        "training",
        title=f"Training {folder.name}",
        facts=_facts(entries),
        notes=[*_notes(entries), *_notes_on_crowds(entries, validations)],
        validation=_validation_table(validations),
        pictures=_pictures(folder, entries, validations),
        next=_next_steps(folder, entries),
    )
    return path


def write_page_of_long_run(folder: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Writes the page at the end of a run that took a minute or more, beside which the second that it costs is little.

    A page that cannot be written is said, and the run is complete all the same.

    Args:
        folder: folder of the run.
        seconds: how long it took.
        say: prints a line for the person watching.
    """
    if seconds < LONG_RUN_SECONDS:
        return
    try:
        say(f"page: {write_run_page(folder)}")
    except (FacekdError, OSError) as error:
        say(f"warning: the page of the run cannot be written ({error}); the training is complete")


def _facts(entries: Entries) -> Table:
    """Returns the last numbers of a run, and its throughput over all lines."""
    last, speeds = entries[-1], _values(entries, "images_per_second")
    rows = [["images seen", f"{last['images_seen']:,}"]]
    for key, title in (("loss", "loss"), ("lr", "learning rate"), ("gradient_norm", "gradient norm")):
        if is_number(last.get(key)):
            rows.append([title, f"{last[key]:.4g}"])
    if speeds:
        rows.append(["images/s, median", f"{median(speeds):,.1f}"])
    if waits := _values(entries, "data_wait"):
        rows.append(["share of time waiting for data, median", f"{100 * median(waits):.1f} %"])
    if is_number(last.get("seconds_left")) and last["seconds_left"] > 0:
        rows.append(["left when the last line was written", format_duration(last["seconds_left"])])
    return Table("", ["", "at the last line of the log"], rows)


def _notes(entries: Entries) -> list[str]:
    """Says what makes the curves incomplete or slow."""
    notes = []
    if lost := sum(not is_number(entry.get("loss")) for entry in entries):
        notes.append(f"Lines of the log whose loss is not finite, and not drawn: {lost:,} of {len(entries):,}.")
    waits = _values(entries, "data_wait")
    if waits and median(waits) > 0.2:
        notes.append("Much of the time went into waiting for data: `data.workers` can be raised.")
    return notes


def _notes_on_crowds(entries: Entries, validations: Entries) -> Iterator[str]:
    """Says which numbers are so many that the page shows the first of them alone."""
    crowds = [
        ("parts of the loss", entries, _is_part, MOST_LINES - 1),
        ("gradient norms", entries, _is_norm, MOST_LINES),
        ("measures of validators in percent", validations, _is_share, MOST_LINES),
        ("measures of validators in the table", validations, _is_measure, MOST_ROWS),
    ]
    for what, logged, is_wanted, most in crowds:
        count = len(_keys(logged, is_wanted))
        if count > most:
            yield f"The log has {count:,} {what}; the first {most} are shown."


def _validation_table(validations: Entries) -> Table:
    """Returns for each measure of the validators its last and best value, with the images seen by then."""
    rows = []
    for key in _keys(validations, _is_measure)[:MOST_ROWS]:
        found = [(entry["images_seen"], entry[key]) for entry in validations if is_number(entry.get(key))]
        is_error = key.rsplit("/", 1)[-1].startswith("eer")
        seen, best = (min if is_error else max)(found, key=lambda one: one[1])
        title = f"{key} %" if _is_share(key) else key
        rows.append([title, _measure(key, found[-1][1]), _measure(key, best), f"{seen:,}"])
    return Table("Validation" if rows else "", ["", "last", "best", "after images"], rows)


def _pictures(folder: Path, entries: Entries, validations: Entries) -> list[Picture]:
    pictures = [_draw_losses(entries), _draw_rate_and_norms(entries)]
    shares = _keys(validations, _is_share)[:MOST_LINES]
    if shares:
        figure, [axes] = new_figure((8, 3.8))
        _draw_lines(axes, validations, {key: key for key in shares}, scale=100)
        label_axes(axes, "validation", "images seen", "%", "below")
        pictures.append(chart(figure, "What the validators measured during training, on people who are not in it."))
    figure, [left, right] = new_figure(PAIR, columns=2)
    _draw_lines(left, entries, {"images_per_second": "images/s"})
    left.set_ylim(0, 1.08 * max([*_values(entries, "images_per_second"), 1e-9]))
    label_axes(left, "throughput", "images seen", "images/s")
    _draw_lines(right, entries, {"data_wait": "waiting"}, scale=100)
    right.set_ylim(0, 100)
    label_axes(right, "time spent waiting for data", "images seen", "%")
    pictures.append(
        chart(figure, "How fast the run was from line to line of its log, and how much it waited for data.")
    )
    if (content := png_beside(folder / DIAGNOSTICS)) is not None:
        caption = "Cosines of student and teacher: of their classifiers, class by class, and of their embeddings."
        pictures.append(Picture(content, caption, is_chart=True))
    if (maps := draw_centre_maps(folder)) is not None:
        pictures.append(maps)
    return pictures


def _draw_losses(entries: Entries) -> Picture:
    parts = _keys(entries, _is_part)[: MOST_LINES - 1]
    figure, [axes] = new_figure((8, 3.8))
    names = {"loss": "loss", **{key: key.removeprefix("loss_") for key in parts}}
    _draw_lines(axes, entries, names)
    label_axes(axes, "loss", "images seen", "loss", "below")
    weighed = " It is the weighted sum of the others." if parts else ""
    return chart(figure, f"Mean loss between two lines of the log.{weighed}")


def _draw_rate_and_norms(entries: Entries) -> Picture:
    # A frozen classifier has a norm of 0 throughout, which no logarithmic axis shows.
    keys = [key for key in _keys(entries, _is_norm)[:MOST_LINES] if any(_values(entries, key))]
    norms = {key: key.replace("_", " ") for key in keys}
    figure, axes = new_figure(PAIR if norms else (8, 3.8), columns=2 if norms else 1)
    _draw_lines(axes[0], entries, {"lr": "learning rate"})
    label_axes(axes[0], "learning rate", "images seen", "learning rate")
    if norms:
        _draw_lines(axes[1], entries, norms)
        axes[1].set_yscale("log", nonpositive="clip")
        show_plain_powers(axes[1])
        label_axes(axes[1], "gradient norms", "images seen", "norm", "below")
    return chart(figure, "The learning rate, and how long the gradients were.")


def _draw_lines(axes: Axes, entries: Entries, names: Mapping[str, str], scale: float = 1.0) -> None:
    """Draws numbers of the log over the images seen.

    Args:
        axes: where to draw.
        entries: lines of the log.
        names: by the key of a number, the name of its line.
        scale: what the numbers are multiplied by.
    """
    for number, (key, name) in enumerate(names.items()):
        found = [(entry["images_seen"], scale * entry[key]) for entry in entries if is_number(entry.get(key))]
        marker = "." if len(found) < 30 else ""
        seen, values = [one[0] for one in found], [one[1] for one in found]
        style: dict[str, Any] = {"lw": LINE_WIDTH, "color": color_of(number), "ls": style_of(number)}
        axes.plot(seen, values, marker=marker, label=in_legend(name), **style)
    show_whole_numbers(axes)


def _next_steps(folder: Path, entries: Entries) -> list[str]:
    """Says how to go on with a run, and how to use and judge its model."""
    last, steps = entries[-1], []
    if is_number(last.get("seconds_left")) and last["seconds_left"] > 0:
        steps.append("Not complete: the command that began it goes on where it is, and this page is made again by "
                     f"`{command_text('report', [str(folder)])}`")  # fmt: skip
    exported = command_text("export", [str(folder), "--output", "model.onnx"])
    judged = command_text("evaluate lfw", ["--model", "model.onnx", "--pairs", "lfw.bin", "--output", "RESULTS"])
    return [*steps, f"Its model as ONNX: `{exported}`", f"How good is it? `{judged}`"]


def _keys(entries: Entries, is_wanted: Callable[[str], bool]) -> list[str]:
    """Returns the keys of some kind that have a number in some entry, in the order in which they appear."""
    every = dict.fromkeys(key for entry in entries for key, value in entry.items() if is_number(value))
    return [key for key in every if is_wanted(key)]


def _values(entries: Entries, key: str) -> list[float]:
    return [entry[key] for entry in entries if is_number(entry.get(key))]


def _is_part(key: str) -> bool:
    return key.startswith("loss_")


def _is_norm(key: str) -> bool:
    return key.endswith("gradient_norm")


def _is_measure(key: str) -> bool:
    return key not in ("images_seen", "seconds") and not key.endswith("_std")


def _is_share(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return not name.endswith("_std") and (name.startswith(SHARES) or name.endswith(("_top1", "_top5")))


def _measure(key: str, value: float) -> str:
    return decimal(100 * value, 2) if _is_share(key) else f"{value:.4g}"
