"""Feeds the run of a tracker from a thread of its own: a server that does not answer never holds up training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from facekd.training.logbook.tracked_run import Entry, Outcome, TrackedRun
from facekd.utils.foreign import shown

SECONDS_BETWEEN_TRIES = 60.0
SECONDS_TO_CLOSE = 30.0
LONGEST_REASON = 120
MAX_WAITING = 20_000  # entries kept for a server that does not answer, about a kilobyte each


class Background:
    """Passes what is recorded on to a tracker, as soon as that takes it.

    What it does not take is kept and tried again, from the start of its run on. The first failure is said, and at the
    end how much was lost.

    Args:
        run: the tracker's run.
        entries: what has been logged so far.
        say: prints a line; called in the thread of the caller alone.
    """

    def __init__(self, run: TrackedRun, entries: Sequence[Entry], say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        self._waiting = list(entries)
        self._num_lost = 0
        self._outcome: Outcome | None = None
        self._is_finished = self._has_warned = False
        self._problem = self._place = ""
        self._news = threading.Condition()
        # A daemon, which may be left behind in a call that does not return.
        self._thread = threading.Thread(target=self._work, name=f"facekd {run.name}", daemon=True)
        self._thread.start()

    def record(self, images_seen: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker.record`."""
        self._report()
        with self._news:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(Entry(images_seen, time.time(), numbers))
            else:
                self._num_lost += 1
            self._news.notify()

    def end(self, outcome: Outcome) -> None:
        """See `Tracker.end`."""
        with self._news:
            self._outcome = outcome
            self._news.notify()

    def close(self) -> None:
        """Waits until the tracker has taken everything, half a minute at most, and says if it has not."""
        self._thread.join(SECONDS_TO_CLOSE)
        self._report()
        num_lost = self._num_lost + len(self._waiting)
        if num_lost:
            self._say(
                f"warning: {self._run.name} has not taken {num_lost:,} of the log's entries; log.jsonl has them all"
            )
        elif not self._is_finished and not self._has_warned:
            self._say(f"warning: {self._run.name} has not finished its run; it may be shown as running")

    def _report(self) -> None:
        """Says where the run is, and the first failure."""
        place, self._place = self._place, ""
        if place:
            self._say(f"{self._run.name:<11}{place}")
        if self._problem and not self._has_warned:
            self._has_warned = True
            self._say(
                f"warning: {self._run.name} does not take the log ({self._problem}); training goes on, and it is "
                "tried again"
            )

    def _work(self) -> None:
        """Starts the run, sends what there is, and at the end finishes; after a failure it waits and tries again."""
        is_started = False
        while not self._is_finished:
            with self._news:
                if is_started:
                    self._news.wait_for(lambda: self._waiting or self._outcome)
                entries, outcome = list(self._waiting), self._outcome
            try:
                if not is_started:
                    self._place = self._run.start()
                    is_started = True
                if entries:
                    self._run.log(entries)
                    with self._news:
                        del self._waiting[: len(entries)]
                elif outcome is not None:
                    self._run.finish(outcome)
                    self._is_finished = True
            except Exception as error:  # whatever the package raises
                first_line = (str(error).strip().splitlines() or [""])[0]
                self._problem = f"{type(error).__name__}: {shown(first_line, LONGEST_REASON)}"
                if outcome is not None:
                    return
                with self._news:
                    self._news.wait_for(lambda: self._outcome is not None, SECONDS_BETWEEN_TRIES)
