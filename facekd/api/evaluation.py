"""Evaluates models from Python by the commands themselves, and reads what they measured."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from facekd.api.faces import Model, PathLike
from facekd.errors import ConfigError, DataError
from facekd.files.result_folder import MARK
from facekd.results.kept_scores import read_scores
from facekd.results.reading import read_result
from facekd.results.schema import check_result
from facekd.verification.operating_points import FAR_ROUNDING

Options: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """Holds what an evaluation measured.

    Attributes:
        folder: where its files lie.
        values: the content of `results.json`; docs/results.md explains every key. Rates are fractions from 0 to 1.
    """

    folder: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, folder: PathLike) -> Results:
        """Reads the results that an evaluation left in a folder.

        Raises:
            DataError: there are none, or they are incomplete or damaged.
        """
        values = read_result(folder)
        check_result(Path(folder) / MARK, values)
        return cls(Path(folder), values)

    @property
    def accuracy(self) -> float | None:
        """Returns the mean accuracy over the folds; None for a set without folds."""
        return (self.values.get("accuracy") or {}).get("mean")

    @property
    def eer(self) -> float | None:
        """Returns the equal error rate; None where it was not measured."""
        return self.values.get("eer")

    def tar(self, far: float) -> float | None:
        """Returns the share of genuine comparisons that are accepted at a false accept rate.

        Args:
            far: one of those that were measured.

        Returns:
            The TAR; None where there are too few impostor comparisons for this FAR.

        Raises:
            DataError: this FAR was not measured; the message lists those that were.
        """
        return self._point(far)["tar"]

    def threshold(self, far: float) -> float | None:
        """Returns the cosine from which on a comparison is accepted at a false accept rate; see `tar`.

        It holds for embeddings that are made as those of the evaluation: by default with the mirror image, as
        `Model.embed(images, flip=True)` gives them; after an evaluation with `{"flip": False}` without it.
        """
        return self._point(far)["threshold"]

    @cached_property
    def scores(self) -> np.ndarray | None:
        """Reads the scores of the comparisons, in the order of the set; None if the evaluation kept none."""
        return read_scores(self.folder)

    def _point(self, far: float) -> dict[str, Any]:
        points = self.values.get("tar_at_far") or []
        found = next((point for point in points if abs(point["far"] - far) <= FAR_ROUNDING * far), None)
        if found is None:
            measured = ", ".join(f"{point['far']:g}" for point in points) or "none"
            raise DataError(f"{self.folder}: TAR was not measured at FAR {far:g}; it was at: {measured}")
        return found


def evaluate_lfw(
    model: Model | PathLike, pairs: PathLike, output: PathLike, options: Options | None = None, *, quiet: bool = False
) -> Results:
    """Evaluates a model on a verification pack, as `facekd evaluate lfw` does.

    Args:
        model: a file or run, or what `load_model` returned, which is then opened in the same way.
        pairs: the pack (`.bin`, `.npz`).
        output: folder for `results.json`, scores and pictures.
        options: more options of the command, such as `{"flip": False, "fars": [0.01, 0.001], "names": "lfw.txt"}`.
        quiet: print nothing.

    Raises:
        FacekdError: what the command would print.
    """
    from evaluation.evaluate_lfw import main

    path, given = _opened_from(model)
    words = ["--model", path, "--pairs", os.fspath(pairs)]
    return _evaluate(main, words, output, {**given, **(options or {})}, quiet)


def evaluate_ijbc(
    model: Model | PathLike, root: PathLike, output: PathLike, options: Options | None = None, *, quiet: bool = False
) -> Results:
    """Evaluates a model on IJB-B, IJB-C or a set in their layout, as `facekd evaluate ijbc` does.

    Args:
        model: see `evaluate_lfw`.
        root: folder of the set.
        output: folder for `results.json`, scores, curves and the page.
        options: more options of the command, such as `{"calibrate": True}`.
        quiet: print nothing.

    Raises:
        FacekdError: what the command would print.
    """
    from evaluation.evaluate_ijbc import main

    path, given = _opened_from(model)
    words = ["--model", path, "--root", os.fspath(root)]
    return _evaluate(main, words, output, {**given, **(options or {})}, quiet)


def _evaluate(
    main: Callable[[list[str]], int], words: list[str], output: PathLike, options: Options, quiet: bool
) -> Results:
    """Runs a command in this process and reads its results."""
    words = [*words, "--output", os.fspath(output), *_as_words(options)]
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(said))
            stack.enter_context(contextlib.redirect_stderr(said))
        try:
            main(words)
        except SystemExit as error:  # the parser has said what is wrong with an option
            problem = said.getvalue().strip().removeprefix("error: ")
            raise ConfigError(problem or "an option cannot be used; what is wrong with it was printed") from error
    return Results.read(output)


def _as_words(options: Options) -> list[str]:
    """Returns the words of a command line: `{"flip": False, "fars": [0.1, 0.01]}` is `--no-flip --fars 0.1,0.01`.

    None stands for the default, as in Python: the option is left out.
    """
    words: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [option, ",".join(map(str, value))]
        else:
            words += [option, str(value)]
    return words


def _opened_from(model: Model | PathLike) -> tuple[str, Options]:
    """Returns the file of a model, and the options that it was opened with."""
    return (str(model.path), model.options) if isinstance(model, Model) else (os.fspath(model), {})
