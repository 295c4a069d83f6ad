"""Writes the log of a run: to the console, to `log.jsonl`, and to the trackers that the config names."""

from facekd.training.logbook.log_file import kinds_logged_at, read_log
from facekd.training.logbook.logbook import Logbook
from facekd.training.logbook.page import write_page_of_long_run, write_run_page
from facekd.training.logbook.stopwatch import Stopwatch, Timer, train_line
from facekd.training.logbook.trackers import require_trackers

__all__ = [
    "Logbook",
    "Stopwatch",
    "Timer",
    "kinds_logged_at",
    "read_log",
    "require_trackers",
    "train_line",
    "write_page_of_long_run",
    "write_run_page",
]
