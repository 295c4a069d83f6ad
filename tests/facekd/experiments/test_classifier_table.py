"""What runs logged of their classifiers: read, averaged over seeds, and shown on the page of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from facekd.experiments.classifier_table import centres_table, read_centres, read_rebuilt, summarize_centres
from facekd.experiments.sharing_report import write_report
from facekd.experiments.sharing_stages import STAGES, Pipeline, SharingPlan


def log(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"kind": "train", "images_seen": 8, "loss": 2.5}, {"kind": "centres", "images_seen": 8, **values}]
    with (folder / "log.jsonl").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


def test_the_last_entry_counts_and_only_its_numbers(tmp_path: Path) -> None:
    run = log(tmp_path / "run", correlation=0.5, rows_dimension=7)
    log(run, correlation=0.25, rows_dimension=None, means_dimension=float("nan"), other=1)
    assert read_centres(run) == {"correlation": 0.25}
    assert read_centres(tmp_path / "none") is None


def test_numbers_beyond_floats_are_none(tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text(json.dumps({"centres": {"dimension": 10**400, "means_dimension": 5}}))
    assert read_rebuilt(tmp_path / "head.pt") == {"means_dimension": 5.0}
    assert read_centres(log(tmp_path / "run", correlation=10**400, rows_dimension=5)) == {"rows_dimension": 5.0}


def test_means_are_over_the_seeds_that_have_a_number(tmp_path: Path) -> None:
    folders = {0: log(tmp_path / "a", correlation=0.2, rows_dimension=3), 5: log(tmp_path / "b", correlation=0.4)}
    found = summarize_centres({**folders, 7: tmp_path / "none"})
    assert found is not None
    assert found["correlation"] == {"mean": (0.2 + 0.4) / 2, "values": {"0": 0.2, "5": 0.4}}
    assert found["rows_dimension"]["values"] == {"0": 3} and "means_dimension" not in found
    assert summarize_centres({7: tmp_path / "none"}) is None


def test_a_table_has_the_columns_that_a_run_has() -> None:
    table = centres_table({"one": {"correlation": 0.126}, "two": {"means_dimension": 3.04}}, "run")
    assert table.head == ["run", "rows and class means", "of class means"]
    assert table.rows == [["one", "0.13", ""], ["two", "", "3.0"]]
    assert not centres_table({}, "run").title


def test_the_page_of_a_pipeline_shows_its_commands_and_classifiers(tmp_path: Path) -> None:
    stages: tuple[str, ...] = STAGES
    pipeline = Pipeline(tmp_path / "sh", SharingPlan(), 1, dict.fromkeys(stages, ""), {stage: {} for stage in stages})
    steps = pipeline.steps()
    write_report(pipeline, steps)  # nothing is logged yet
    log(tmp_path / "sh" / "teacher", correlation=0.126)
    write_report(pipeline, steps)
    page = (tmp_path / "sh" / "report.html").read_text()
    assert "facekd train --output" in page and "facekd export" in page
    assert ">shared<" not in page
    # The class means that are shared are a row of their own.
    shared = Pipeline(tmp_path / "sh", SharingPlan(shared_head="means"), 1, pipeline.recipes, pipeline.configs)
    (tmp_path / "sh" / "shared_head.pt").touch()
    measures = {"means_correlation": 0.987, "dimension": 45.04, "means_dimension": 3.21, "power": None}
    (tmp_path / "sh" / "shared_head.json").write_text(json.dumps({"centres": measures}))
    write_report(shared, steps)
    assert '<td class="text">shared</td><td' in (text := (tmp_path / "sh" / "report.html").read_text())
    assert ">0.99<" in text and ">45.0<" in text and ">3.2<" in text
    assert ">0.13<" in page and "Who resembles whom" in page and page.count("data:image/png") == 1
