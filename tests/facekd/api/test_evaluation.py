"""`facekd.evaluate_lfw` and the results that it returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import facekd
from facekd.errors import ConfigError, DataError


@pytest.fixture
def results(tmp_path: Path, tiny_pack: Path, pooling_model: Path) -> facekd.Results:
    options = {"folds": 2, "fars": [0.5, 0.1], "bootstrap": 0, "pictures": False, "flip": False}
    return facekd.evaluate_lfw(pooling_model, tiny_pack, tmp_path / "out", options, quiet=True)


def test_results_are_those_of_the_file(results: facekd.Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert capsys.readouterr().out == ""
    assert facekd.Results.read(results.folder).values == results.values
    assert results.accuracy == results.values["accuracy"]["mean"] and results.eer == results.values["eer"]
    assert results.tar(0.5) == results.values["tar_at_far"][0]["tar"]
    assert results.scores is not None and len(results.scores) == results.values["num_pairs"]
    # The threshold accepts as many as the file says.
    threshold, point = results.threshold(0.5), results.values["tar_at_far"][0]
    assert threshold is not None
    accepted = point["false_accepts"] + point["tar"] * point["num_genuine"]
    assert np.count_nonzero(results.scores >= threshold) == pytest.approx(accepted)
    with pytest.raises(DataError, match=r"not measured at FAR 0\.01; it was at: 0\.5, 0\.1"):
        results.tar(0.01)
    with pytest.raises(DataError, match="nowhere"):
        facekd.Results.read("nowhere")


def test_a_model_is_evaluated_as_it_was_opened(tmp_path: Path, tiny_pack: Path, pooling_model: Path) -> None:
    opened = facekd.load_model(pooling_model, mean=100, std=50)
    found = facekd.evaluate_lfw(
        opened, tiny_pack, tmp_path / "out", {"folds": 2, "pictures": False, "names": None}, quiet=True
    )
    assert found.values["model"]["preprocessing"]["mean"] == [100, 100, 100]
    assert found.values["model"]["fingerprint"] == opened.fingerprint


@pytest.mark.parametrize("quiet", [True, False])
def test_an_option_that_does_not_exist_is_refused(
    tmp_path: Path, tiny_pack: Path, pooling_model: Path, quiet: bool
) -> None:
    with pytest.raises(ConfigError, match="did you mean --folds" if quiet else "was printed"):
        facekd.evaluate_lfw(pooling_model, tiny_pack, tmp_path, {"fold": 2}, quiet=quiet)
