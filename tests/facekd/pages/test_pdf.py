"""Pages as PDF: what is said where Playwright or a browser is missing, and how it is driven; printed where one is."""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from evaluation.compare_models import main as report
from facekd.errors import DataError, FacekdError
from facekd.pages.pdf import print_page


class Driven:
    """Stands for every object of Playwright, and records the calls."""

    def __init__(self, calls: list[tuple[str, dict[str, Any]]], failure: Exception | None) -> None:
        self._calls, self._failure = calls, failure

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def chromium(self) -> Driven:
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*words: object, **options: Any) -> Any:
            self._calls.append((name, {**options, "words": words}))
            if name == "launch" and self._failure:
                raise self._failure
            return b"%PDF-1.4 printed" if name == "pdf" else self

        return call


def install(monkeypatch: pytest.MonkeyPatch, failure: str = "") -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    module = ModuleType("playwright.sync_api")
    error = type("Error", (Exception,), {})
    module.Error = error  # pyright: ignore[reportAttributeAccessIssue]
    driven = Driven(calls, error(failure) if failure else None)
    module.sync_playwright = lambda: driven  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "playwright", ModuleType("playwright"))
    monkeypatch.setitem(sys.modules, "playwright.sync_api", module)
    return calls


def test_without_playwright_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(
        FacekdError, match=r"pip install 'facekd\[pdf\]'.*playwright install chromium.*or print .*p\.html"
    ):
        print_page(tmp_path / "p.html", tmp_path / "p.pdf")


def test_a_browser_that_is_missing_or_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.pdf").write_bytes(b"old")
    (tmp_path / "p.html").write_text("<h1>A page</h1>")
    install(monkeypatch, "Executable doesn't exist at /x\n\x1b[31m")
    with pytest.raises(FacekdError, match="run `playwright install chromium`, or name one by --browser"):
        print_page(tmp_path / "p.html", tmp_path / "p.pdf")
    with pytest.raises(FacekdError, match=r"--browser .*none: no such file"):
        print_page(tmp_path / "p.html", tmp_path / "p.pdf", tmp_path / "none")
    assert (tmp_path / "p.pdf").read_bytes() == b"old"


def test_the_page_is_printed_without_scripts_network_or_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = install(monkeypatch)
    (tmp_path / "p.html").write_text("<h1>A page, é</h1>", encoding="utf-8")
    print_page(tmp_path / "p.html", tmp_path / "p.pdf")
    calls = dict(recorded)
    assert (tmp_path / "p.pdf").read_bytes() == b"%PDF-1.4 printed"
    assert calls["new_context"]["java_script_enabled"] is False and calls["new_context"]["offline"] is True
    # Chromium's frames do not heed `offline`.
    (pattern, refuse), route = calls["route"]["words"], SimpleNamespace(abort=lambda: "refused")
    assert pattern == "**/*" and refuse(route) == "refused"
    # The address of a file would let the page show other files.
    assert calls["set_content"]["words"] == ("<h1>A page, é</h1>",) and "goto" not in calls


@pytest.mark.skipif("FACEKD_TEST_BROWSER" not in os.environ, reason="FACEKD_TEST_BROWSER names no browser")
def test_a_browser_prints(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    cv2.imwrite(str(tmp_path / "private.png"), np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    sizes = []
    for name, picture in (("with", f"<img src='{tmp_path.as_uri()}/private.png' alt=''>"), ("without", "")):
        (tmp_path / f"{name}.html").write_text(f"<h1>A page</h1>{picture}")
        print_page(tmp_path / f"{name}.html", tmp_path / "p.pdf", Path(os.environ["FACEKD_TEST_BROWSER"]))
        assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF-")
        sizes.append((tmp_path / "p.pdf").stat().st_size)
    assert sizes[0] < sizes[1] + 8000  # another file of the machine, which the page names, is not in it


@pytest.mark.skipif("FACEKD_TEST_BROWSER" not in os.environ, reason="FACEKD_TEST_BROWSER names no browser")
def test_a_page_reaches_no_server_of_this_machine_or_its_network(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        parts = [f"<iframe src='{place}/frame'></iframe>", f"<object data='{place}/object'></object>"]
        parts += [f"<embed src='{place}/embed'>", f"<img src='{place}/image' alt=''>"]
        (tmp_path / "p.html").write_text(f"<h1>A page</h1>{''.join(parts)}")
        print_page(tmp_path / "p.html", tmp_path / "p.pdf", Path(os.environ["FACEKD_TEST_BROWSER"]))
        server.shutdown()
    assert not asked


def test_report_prints_the_page_of_a_training_and_any_other_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = install(monkeypatch)
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text('{"kind": "train", "images_seen": 10, "loss": 1.0, "lr": 0.1}\n')
    assert report([str(run), "--pdf", str(tmp_path / "run.pdf")]) == 0
    (tmp_path / "other.html").write_text("<h1>other</h1>")
    assert report([str(tmp_path / "other.html"), "--pdf", str(tmp_path / "other.pdf")]) == 0
    printed = [options["words"][0] for name, options in recorded if name == "set_content"]
    assert printed == [page.read_text() for page in (run / "report.html", tmp_path / "other.html")]
    assert (tmp_path / "run.pdf").exists() and (tmp_path / "other.pdf").exists()
    assert capsys.readouterr().out.splitlines() == [
        str(run / "report.html"), str(tmp_path / "run.pdf"), str(tmp_path / "other.pdf"),
    ]  # fmt: skip


def test_a_page_that_is_not_there_or_not_to_be_printed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"none\.html: no such page; name one that facekd wrote"):
        report([str(tmp_path / "none.html"), "--pdf", str(tmp_path / "x.pdf")])
    with pytest.raises(SystemExit):
        report([str(tmp_path / "none.html")])
    assert "a page is only printed, by --pdf FILE" in capsys.readouterr().err
