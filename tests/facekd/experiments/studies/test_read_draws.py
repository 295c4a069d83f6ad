"""The draws of people beside results: what no evaluation writes is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.experiments.studies.comparison import read_draws

EER = np.linspace(0.1, 0.2, 4)
RESULT: dict[str, Any] = {
    "bootstrap": {"resampled": "subjects", "replicates": 4, "num_subjects": 3},
    "tar_at_far": [{"far": 0.1, "tar": 0.5}, {"far": 0.001, "tar": None}],
    "eer": 0.15,
    "eer_ci95": np.quantile(EER, (0.025, 0.975)).tolist(),
}


def test_draws_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "draws.npz", eer=EER, fars=[0.1], tar=np.full((1, 4), 0.5))
    draws = read_draws(tmp_path, RESULT)
    assert draws is not None and draws.num_people == 3
    np.testing.assert_array_equal(draws.eer, EER)


@pytest.mark.parametrize(
    "eer", [EER.astype("U9"), EER > 0.15, EER.astype(complex), EER.astype("M8[s]"), np.zeros(4, "i4,i4"), EER[:3]]
)
def test_other_values_belong_to_no_results(eer: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "draws.npz", eer=eer, fars=[0.1], tar=np.full((1, 4), 0.5))
    with pytest.raises(DataError, match=r"results\.json and .*draws\.npz do not belong together"):
        read_draws(tmp_path, RESULT)


@pytest.mark.parametrize(
    "change",
    [{"eer_ci95": None}, *({"bootstrap": {**RESULT["bootstrap"], "num_subjects": odd}} for odd in (None, "x", 0, 2.5))],
)
def test_results_that_lack_what_draws_need_are_no_results_of_theirs(change: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "draws.npz", eer=EER, fars=[0.1], tar=np.full((1, 4), 0.5))
    with pytest.raises(DataError, match=r"results\.json and .*draws\.npz do not belong together"):
        read_draws(tmp_path, {**RESULT, **change})
