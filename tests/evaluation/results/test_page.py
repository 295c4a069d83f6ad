"""The report of an IJB-style evaluation, from the files alone: every number of the result, in three forms."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from markdown_it import MarkdownIt

from data_prep.make_ijb_layout import main as make_ijb
from evaluation.evaluate_ijbc import main as evaluate_ijbc
from evaluation.ijb.protocol import load_protocol
from evaluation.results.page import FILES, write_report
from evaluation.results.pairs_of_result import load_pairs
from facekd.errors import FacekdError, ImageError
from tests.measured_results import MODEL
from tests.no_waiting import failing_if_it_waits


class Page(HTMLParser):
    """What a browser would be given: text, pictures, and whether every tag that must be closed is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.pictures: list[bytes] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            kind, data = (dict(attrs)["src"] or "").split(",", 1)
            assert kind == "data:image/png;base64"
            self.pictures.append(base64.b64decode(data))
        self.links += [value or "" for name, value in attrs if name in ("href", "src") and tag != "img"]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of drawn embeddings for a set that has images too."""
    folder = tmp_path_factory.mktemp("report")
    root = folder / "small <set> & more"
    make_ijb(["synthetic:14x8", str(root), "--image-size", "32", "--workers", "0"])
    people = {name.split("/")[0] for name in sources(root)}
    generator = np.random.default_rng(0)
    centres = dict(zip(sorted(people), generator.normal(size=(len(people), 16)), strict=True))
    embeddings = np.stack([centres[name.split("/")[0]] for name in sources(root)])
    embeddings = np.concatenate([embeddings + 1.2 * generator.normal(size=embeddings.shape) for _ in range(2)], axis=1)
    np.save(folder / "drawn.npy", embeddings.astype(np.float32))
    arguments = ["--root", str(root), "--embeddings", str(folder / "drawn.npy"), "--all-protocols"]
    assert evaluate_ijbc([*arguments, "--output", str(folder / "out")]) == 0
    assert [path.name for path in write_report(folder / "out")] == list(FILES)
    return folder / "out"


def sources(root: Path) -> list[str]:
    return [line.split("\t")[1] for line in (root / "sources.tsv").read_text().splitlines()]


def copied(evaluated: Path, folder: Path) -> Path:
    """A copy to spoil, without reports."""
    shutil.copytree(evaluated, folder / "copy")
    for name in FILES:
        (folder / "copy" / name).unlink(missing_ok=True)
    return folder / "copy"


def change(folder: Path, **values: object) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_page_stands_alone_and_shows_what_was_measured(evaluated: Path) -> None:
    result = json.loads((evaluated / "results.json").read_text())
    page = Page((evaluated / "report.html").read_text())
    assert page.open == [] and page.links == []
    # Curves, scores, identification, and eight worst pairs of both kinds.
    assert len(page.pictures) == 3 + 16
    for picture in page.pictures:
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert min(pixels.shape[:2]) > 100 and pixels.std() > 5
    for pair in (*result["worst"]["genuine"][:8], *result["worst"]["impostor"][:8]):
        assert f"{pair['score']:.4f}: templates {pair['first']} and {pair['second']}" in page.text
    assert "drawn.npy on small <set> & more" in page.text  # escaped, or the page would lack it
    assert result["protocol"]["text"] in page.text and result["dataset"]["fingerprint"] in page.text
    for form in (page.text, (evaluated / "report.md").read_text()):
        for point in result["tar_at_far"]:
            if point["tar"] is None:
                assert point["reason"] in form
            else:
                assert f"{100 * point['tar']:.2f}" in form and f"{point['threshold']:.4f}" in form
        assert f"{100 * result['identification']['mean']['rank'][0]['rate']:.2f}" in form
        assert all(entry["protocol"]["name"] in form for entry in result["protocols"])


@pytest.mark.parametrize(("accepts", "far"), [((900, 30, 9), 0.01), ((900, 30, 30), 0.001), ((9, 3, 0), 0.1)])
def test_the_threshold_to_try_next_is_the_strictest_that_30_false_accepts_stand_behind(
    evaluated: Path, tmp_path: Path, accepts: tuple[int, ...], far: float
) -> None:
    folder = copied(evaluated, tmp_path)
    result = json.loads((folder / "results.json").read_text())
    point = next(one for one in result["tar_at_far"] if one["tar"] is not None)
    counts = [{"false_accepts": number, "num_impostor": 1000, "achieved_far": number / 1000} for number in accepts]
    points = [{**point, "far": 0.1**place, **own} for place, own in enumerate(counts, 1)]
    change(folder, tar_at_far=points, model=MODEL, command="facekd x --mean 1 --color bgr --rule exact")
    (folder / "curves.npz").unlink()  # whose ROC is of other counts
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert f"--model m.onnx --mean 1 --color bgr --thresholds {folder} --far {far:g}</code>" in page
    # Of embeddings made elsewhere there are no thresholds that `compare` takes.
    change(folder, model=None)
    write_report(folder)
    assert "facekd compare" not in (folder / "report.html").read_text()


def test_the_csv_holds_every_number_to_the_last_digit(evaluated: Path) -> None:
    result = json.loads((evaluated / "results.json").read_text())
    with (evaluated / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = list(dict.fromkeys(row["protocol"] for row in rows))
    assert sorted(names) == sorted(entry["protocol"]["name"] for entry in result["protocols"])
    for entry in result["protocols"]:
        own = [row for row in rows if row["protocol"] == entry["protocol"]["name"]]
        tars = {float(row["target"]): row for row in own if row["metric"] == "tar"}
        for point in entry["tar_at_far"]:
            row = tars[point["far"]]
            assert (row["value"] and float(row["value"])) == ("" if point["tar"] is None else point["tar"])
            assert (row["threshold"] and float(row["threshold"])) == (
                "" if point["threshold"] is None else point["threshold"]
            )
        [eer] = [row for row in own if row["metric"] == "eer"]
        assert float(eer["value"]) == entry["eer"]
        ranks = {(row["gallery"], row["target"]): float(row["value"]) for row in own if row["metric"] == "rank"}
        for gallery, measured in entry["identification"].items():
            for rank in measured["rank"]:
                assert ranks[gallery, str(rank["rank"])] == rank["rate"]


def test_tables_of_the_markdown_are_rectangular(evaluated: Path) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", (evaluated / "report.md").read_text(), re.M)
    assert len(blocks) >= 5
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_without_its_images_curves_or_set_the_report_says_so(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    dataset = json.loads((folder / "results.json").read_text())["dataset"]
    change(folder, dataset={**dataset, "fingerprint": "0" * 64})
    write_report(folder)
    page = Page((folder / "report.html").read_text())
    assert "lists of the set are others" in page.text and len(page.pictures) == 3
    change(folder, dataset={**dataset, "root": str(tmp_path / "gone")})
    (folder / "curves.npz").unlink()
    write_report(folder)
    page = Page((folder / "report.html").read_text())
    assert "Images left out" in page.text and page.pictures == []


def test_images_of_a_set_that_are_named_pipes_are_left_out(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    dataset = json.loads((folder / "results.json").read_text())["dataset"]
    root = tmp_path / "set"
    shutil.copytree(dataset["root"], root, ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    for image in Path(dataset["root"], "loose_crop").iterdir():
        (root / "loose_crop").mkdir(exist_ok=True)
        os.mkfifo(root / "loose_crop" / image.name)
    with failing_if_it_waits():
        protocol = load_protocol(root)
        with pytest.raises(ImageError, match="is a named pipe"):
            protocol.read_face(0, 32)
        change(folder, dataset={**dataset, "root": str(root), "fingerprint": protocol.fingerprint})
        (folder / "curves.npz").unlink()
        write_report(folder)
    assert Page((folder / "report.html").read_text()).pictures == []


def test_a_report_writes_nothing_into_the_set(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    dataset = json.loads((folder / "results.json").read_text())["dataset"]
    root = tmp_path / "set"
    shutil.copytree(dataset["root"], root, ignore=shutil.ignore_patterns("*.facekd-protocol"))
    change(folder, dataset={**dataset, "root": str(root)})
    before = sorted(root.rglob("*"))
    write_report(folder)
    assert load_pairs(json.loads((folder / "results.json").read_text())).is_same.any()
    assert len(Page((folder / "report.html").read_text()).pictures) > 3 and sorted(root.rglob("*")) == before


def test_a_result_of_one_protocol_alone(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    absent = dict.fromkeys(("eer", "eer_threshold", "eer_ci95", "auc", "tar_at_far", "num_genuine", "worst"))
    change(folder, protocols=[], **absent)
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert "1:N alone was evaluated" in text and "1:1 verification" not in text
    assert len(Page((folder / "report.html").read_text()).pictures) == 1
    change(folder, identification=None)
    write_report(folder)
    assert "1:N identification" not in (folder / "report.md").read_text()


def test_texts_that_others_put_into_results_stay_texts(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    evil = "\x1b]0;owned\x07<img src=http://a.example/x> [a](http://a.example)\n\n# owned"
    result = json.loads((folder / "results.json").read_text())
    spoilt = {**result["protocol"], "text": evil, "name": f"=cmd()\x1b[31m{evil}"}
    names = {"dataset": {**result["dataset"], "root": evil, "published": evil}, "software": {"a": evil}}
    change(folder, protocol=spoilt, notes=[evil, "# owned"], command=f"facekd x\n```\n# owned {evil}", **names)
    write_report(folder)

    # Markdown has facekd's own headings and one list, and nothing that a browser would fetch or a terminal obey.
    text = (folder / "report.md").read_text()
    assert text.replace("\n", "").isprintable()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert "owned" not in "".join(titles[1:]) and "1:1 verification" in titles
    kinds = {child.type for token in tokens for child in token.children or []}
    assert {token.type for token in tokens}.isdisjoint({"html_block"}) and kinds <= {
        "text",
        "text_special",
        "code_inline",
    }
    assert sum(token.type == "fence" for token in tokens) == 1

    # A cell of the CSV that others wrote is not computed.
    lines = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert {line["protocol"][:13] for line in lines} >= {"'=cmd()\\x1b[3"}
    assert (folder / "results.csv").read_text().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no results there"),
        ("{", "is not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "names no format"),
        ('{"format": "facekd-ijb", "version": 2}', "version 2"),
        ('{"format": "facekd-classification", "version": 1}', "this report is for those of facekd-ijb"),
    ],
)
def test_a_folder_without_such_results(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(FacekdError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_curves_that_cannot_be_read(evaluated: Path, tmp_path: Path) -> None:
    folder = copied(evaluated, tmp_path)
    (folder / "curves.npz").write_bytes(b"nothing")
    with pytest.raises(FacekdError, match=r"curves\.npz: cannot be read"):
        write_report(folder)
