"""Prints a page as PDF, as a browser shows it: by Playwright, which drives a headless Chromium.

Playwright is an extra (`pip install 'facekd[pdf]'`), with a browser of its own (`playwright install chromium`) or an
installed Chrome or Chromium. WeasyPrint was the other choice: it needs no browser, but the system's Pango, and lays
pages out by rules of its own.
"""

from __future__ import annotations

from pathlib import Path

from facekd.errors import FacekdError
from facekd.files.reading import read_text_file
from facekd.files.writing import atomic_open
from facekd.utils.foreign import shown

TIMEOUT = 120_000  # ms for a page, which may hold megabytes of pictures
MARGIN = "14mm"


def print_page(page: Path, pdf: Path, browser: Path | None = None) -> None:
    """Prints a page that facekd has written, without scripts, without a network, and without other files.

    A page that is named may be a stranger's, and the PDF may be given away. So the browser gets the text of the page
    and not its address: a page from a file could show every other file of this machine in itself.

    Args:
        page: the HTML file.
        pdf: the file to write.
        browser: an executable of Chrome or Chromium; None takes Playwright's own.

    Raises:
        DataError: the page is no text.
        FacekdError: Playwright or its browser is missing, or printing fails; the message says what to install.
    """
    try:
        from playwright.sync_api import Error, sync_playwright  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise FacekdError(
            "--pdf: printing needs Playwright: `pip install 'facekd[pdf]'`, then `playwright install chromium`; or "
            f"print {page} in a browser"
        ) from error
    if browser is not None and not browser.is_file():
        raise FacekdError(f"--browser {browser}: no such file; give an executable of Chrome or Chromium")
    text = read_text_file(page)
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser)
            context = chromium.new_context(java_script_enabled=False, offline=True, color_scheme="light")
            context.route("**/*", lambda route: route.abort())  # frames within the page go online all the same
            opened = context.new_page()
            opened.set_content(text, timeout=TIMEOUT)
            content = opened.pdf(
                format="A4",
                margin={"top": MARGIN, "bottom": MARGIN, "left": MARGIN, "right": MARGIN},
                print_background=True,
            )
            chromium.close()
    except Error as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        missing = "Executable doesn't exist" in str(error)
        remedy = "run `playwright install chromium`, or name one by --browser" if missing else "try --browser FILE"
        met = shown(lines[0] if lines else error)
        raise FacekdError(f"--pdf: {page} could not be printed ({met}); {remedy}") from error
    with atomic_open(pdf) as stream:
        stream.write(content)
