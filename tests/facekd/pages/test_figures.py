"""Figures: what is drawn where, and that matplotlib is loaded only when something is drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import facekd
from facekd.pages.figures import (
    PALETTE,
    SINGLE,
    RocLine,
    RocPoint,
    chart,
    color_of,
    draw_histogram,
    draw_losses,
    draw_roc,
    new_figure,
    num_bins,
    save_figure,
    staircase,
    style_of,
    to_png,
)


def test_a_staircase_keeps_the_highest_tar_at_each_far() -> None:
    far, tar = np.array([0, 0, 0.25, 0.5, 0.5]), np.array([0.1, 0.4, 0.4, 0.6, 0.9])
    corners = staircase(far, tar, 0.125)
    assert corners[0].tolist() == [0.125, 0.25, 0.5] and corners[1].tolist() == [0.4, 0.4, 0.9]


def test_the_roc_starts_at_half_of_one_false_accept_and_shows_every_point() -> None:
    line = RocLine("a", np.array([0, 0.01, 1]), np.array([0.5, 0.8, 1]), [RocPoint(0.01, 0.8, (0.3, 0.9))])
    coarse = RocLine("b", np.array([0, 0.1, 1]), np.array([0.7, 0.9, 1]), [RocPoint(0.1, 0.9)])
    assert (line.left_edge, coarse.left_edge) == (0.005, 0.05)
    figure, [axes] = new_figure(SINGLE)
    draw_roc(axes, [line, coarse], "title")
    assert axes.get_xscale() == "log" and axes.get_xlim() == (0.005, 1)
    assert axes.get_ylim()[0] < 0.3 and axes.get_ylim()[1] > 1  # the interval of the point is inside
    assert [one.get_label() for one in axes.get_lines()][:1] == ["a"]
    assert len(axes.containers) == 2
    assert to_png(figure).startswith(b"\x89PNG")


def test_a_band_is_inside_of_the_axes() -> None:
    far = np.geomspace(0.01, 1, 5)
    figure, [axes] = new_figure(SINGLE)
    draw_roc(axes, [RocLine("a", far, np.full(5, 0.9), band=(np.full(5, 0.2), np.ones(5)))], "")
    assert axes.get_ylim()[0] < 0.2
    assert to_png(figure)


@pytest.mark.parametrize("is_log", [False, True])
def test_a_histogram_counts_every_value_even_if_all_are_equal(is_log: bool) -> None:
    for values in (np.geomspace(1, 1000, 77), np.ones(77)):
        _, [axes] = new_figure(SINGLE)
        draw_histogram(axes, values, "title", is_log=is_log and values.max() > 1, margin=0.01)
        assert sum(patch.get_height() for patch in axes.patches) == 77


def test_loss_curves_are_written_whole(tmp_path: Path) -> None:
    log = [{"images_seen": seen, "loss": 10 / seen} for seen in (1, 2, 4)]
    figure = draw_losses({"one": log, "two": log[:2]})
    [axes] = figure.axes
    assert [np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()] == [[1, 2, 4], [1, 2]]
    save_figure(figure, tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")).std() > 5
    assert [file.name for file in tmp_path.iterdir()] == ["loss.png"]


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_figure_for_a_paper_is_the_same_file_each_time(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        save_figure(draw_losses({"$x^$": [{"images_seen": 1, "loss": 2.0}]}), tmp_path / f"{name}.{kind}")
    content = (tmp_path / f"one.{kind}").read_bytes()
    assert content.startswith({"svg": b"<?xml", "pdf": b"%PDF"}[kind])
    assert content == (tmp_path / f"two.{kind}").read_bytes()


def test_nothing_is_cut_and_the_legend_is_below() -> None:
    figure = draw_losses({f"{'m' * 150} {number}": [{"images_seen": 1, "loss": 1.0}] for number in range(9)})
    narrow = cv2.imdecode(np.frombuffer(to_png(draw_losses({"a": [{"images_seen": 1, "loss": 1.0}]})), np.uint8), 0)
    wide = cv2.imdecode(np.frombuffer(to_png(figure), np.uint8), 0)
    assert wide.shape[0] > narrow.shape[0] + 50  # the picture grows around the legend
    for edge in (wide[:4], wide[-4:], wide[:, :4], wide[:, -4:]):
        assert (edge > 250).all()  # nothing reaches the rim


def test_colours_come_round_with_other_dashes() -> None:
    styles = [(color_of(number), style_of(number)) for number in range(4 * len(PALETTE))]
    assert len(set(styles)) == len(styles)


def test_few_values_have_few_bins_and_whole_numbers_one_each() -> None:
    assert [num_bins(count) for count in (1, 27, 1000, 10**9)] == [6, 6, 20, 40]
    _, [axes] = new_figure(SINGLE)
    draw_histogram(axes, np.array([1.0, 2, 2, 5]), "images per identity")
    assert [patch.get_height() for patch in axes.patches] == [1, 2, 0, 0, 1]


def test_a_chart_says_what_it_shows() -> None:
    picture = chart(draw_losses({"alone": [{"images_seen": 1, "loss": 2.0}]}), "the caption")
    assert picture.alt == "Chart. loss during training: loss over images seen: alone." and picture.is_chart


def test_matplotlib_is_loaded_by_the_first_figure_and_not_before() -> None:
    code = (
        "import sys, facekd.experiments.studies.report, facekd.experiments.quickstart_report, evaluation.results.page, "
        "evaluation.results.hardest_pairs, data_prep.inspection.page, facekd.pages.figures as figures\n"
        "before = 'matplotlib' in sys.modules\n"
        "figures.new_figure(figures.SINGLE)\n"
        "print(before, 'matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "True", "False"]


def test_names_are_drawn_as_they_are_and_none_is_missing_in_the_legend(recwarn: pytest.WarningsRecorder) -> None:
    names = ["$\\frac$", "$x^$", "_under", "\x1b[31m\u202e", "\udcff", "名", "n" * 3_000_000]
    figure = draw_losses({name: [{"images_seen": 1, "loss": 2.0}, {"images_seen": 2, "loss": 1.0}] for name in names})
    figure.axes[0].set_title("$\\nonsense{")
    figure.suptitle("_$\\frac$")
    assert to_png(figure).startswith(b"\x89PNG")
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown[:6] == ["$\\frac$", "$x^$", " _under", "\\x1b[31m\\u202e", "\\udcff", "名"]
    assert len(shown[6]) < 300
    assert not recwarn.list


def test_the_current_folder_has_no_say_in_how_figures_look(tmp_path: Path) -> None:
    """matplotlib would take its settings from there, and before 3.11 run what stands in them."""
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 77\ntext.usetex: True\n")
    code = (
        "from facekd.pages.figures import new_figure, to_png; figure, _ = new_figure((2, 2)); import os, matplotlib; "
        "print(matplotlib.rcParams['lines.linewidth'], len(to_png(figure)) > 100, os.path.exists('matplotlibrc'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(facekd.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1.5", "True", "True"]
