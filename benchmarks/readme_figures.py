"""Draws the picture of README.md: generated faces, and how well a model tells other generated people apart.

    python benchmarks/readme_figures.py runs/readme docs/readme.png

`make readme-figures` makes the faces, trains and evaluates first, then calls this. Nothing is fetched, and all numbers
are those of the evaluation.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evaluation.results.figures import Curve
from facekd.images.decoding import decode_rgb
from facekd.pages.figures import PAIR, draw_roc, new_figure, save_figure
from facekd.pages.numbers import percent
from facekd.results.reading import read_curves, read_result
from facekd.utils.wording import counted

SIZE, ROWS, COLUMNS = 32, 8, 10  # pixels of a face, and the faces of the sheet that are shown


def main(folder: str, picture: str) -> None:
    """Draws the picture.

    Args:
        folder: holds `data`, which `facekd data synthesize` made, and `results` of `facekd evaluate folder`.
        picture: the file to write, .png.
    """
    results = Path(folder) / "results"
    result = read_result(results)
    figure, [left, right] = new_figure(PAIR, columns=2)

    # Some of the people that the model is trained on.
    sheet = decode_rgb(min((Path(folder) / "data").glob("*.png")).read_bytes())
    left.imshow(sheet[: SIZE * ROWS, : SIZE * COLUMNS], interpolation="nearest")
    left.set_axis_off()
    left.set_title("generated people, one in each row", fontsize=10)

    # How well it tells other people apart.
    label = f"trained on others, EER {percent(result['eer'])} %"
    line = Curve(label, read_curves(results, result), result["tar_at_far"]).roc_line()
    pairs = counted(result["num_impostor"], "impostor pair")
    people = f"{counted(result['num_people'], 'other person')}, {pairs}; 95 % intervals"
    draw_roc(right, [line], people)
    save_figure(figure, picture)


if __name__ == "__main__":
    main(*sys.argv[1:3])
