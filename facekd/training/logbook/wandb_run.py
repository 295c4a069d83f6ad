"""Logs a run to Weights & Biases: to its server where the user is logged in, else to files that can be sent later."""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from facekd import __version__
from facekd.errors import DataError
from facekd.files.reading import read_text_file
from facekd.training.logbook.tracked_run import Entry, Outcome, TrackedRun
from facekd.utils.foreign import shown

SECONDS_TO_START = 15
SECONDS_TO_FINISH = 25
SERVER = "https://api.wandb.ai"  # unless told otherwise
# wandb takes settings from the current folder, which may be a stranger's. These lead nothing elsewhere.
HARMLESS = ("mode", "project", "entity", "disabled", "console", "ignore_globs")


class WandbRun(TrackedRun):
    """Is a run of Weights & Biases; its variables WANDB_PROJECT, WANDB_MODE and so on hold."""

    name = "wandb"

    def start(self) -> str:
        """See `TrackedRun.start`. Where the server does not take the run, it is kept in files."""
        kept = self.kept_ids("id", "project", "entity")
        mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
        why = ""
        try:
            self._run = self._open(mode, kept)
        except Exception as error:  # an unreachable server, a refused key: whatever the package raises
            if mode == "offline":
                raise
            # A run of its own, because wandb has not let go of the other, which the next start may well continue.
            mode, why = "offline", f" because its server did not take it ({type(error).__name__})"
            self._run = self._open(mode, {})
        if not (kept and why):
            self.keep_ids(id=self._run.id, project=self._run.project or "", entity=self._run.entity or "")
        self._run.config.update({**self.facts.config, "facekd_version": __version__}, allow_val_change=True)
        # The server says from which step on it takes more. Without it, a new file holds everything from the beginning.
        self._first_step = self._run.step if mode == "online" else 0
        if mode == "online":
            return self._run.url or self._run.id
        return f"{mode}{why}; `wandb sync {self._folder}/wandb/latest-run` sends run {self._run.id}"

    def log(self, entries: Sequence[Entry]) -> None:
        """See `TrackedRun.log`."""
        for entry in entries:
            if entry.images_seen >= self._first_step:
                self._run.log(dict(entry.numbers), step=entry.images_seen)

    def finish(self, outcome: Outcome) -> None:
        """See `TrackedRun.finish`."""
        self._run.finish(exit_code=0 if outcome == "complete" else 1)

    @property
    def _folder(self) -> str:
        return os.environ.get("WANDB_DIR") or str(self.facts.folder)

    def _open(self, mode: str, kept: Mapping[str, str]) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        settings = wandb.Settings(
            mode=mode,  # type: ignore[arg-type]
            console="off",
            silent=True,
            init_timeout=SECONDS_TO_START,
            login_timeout=SECONDS_TO_START,
            finish_timeout=SECONDS_TO_FINISH,
        )
        continued = {"id": kept["id"]} if kept else {}
        if kept and mode == "online":
            continued["resume"] = "allow"
        return wandb.init(
            project=kept.get("project") or os.environ.get("WANDB_PROJECT") or "facekd",
            entity=kept.get("entity") or None,
            name=os.environ.get("WANDB_NAME") or self.facts.folder.name,
            dir=self._folder,
            settings=settings,
            **continued,  # type: ignore[arg-type]
        )


def _is_logged_in() -> bool:
    """Tells whether there is a key for the server: in the environment, or where `wandb login` writes it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).netloc
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if file and netrc.netrc(os.path.expanduser(file)).authenticators(host):  # noqa: PTH111
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False


def why_not_wandb_here() -> str | None:
    """Says what of the current folder would have wandb send the user's key elsewhere; None if nothing would.

    wandb reads `wandb/settings` of the current folder, which may name another server, a proxy, or no checks of
    certificates. `wandb init` writes the user's own server there, too.
    """
    home = os.path.expanduser(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")  # noqa: PTH111
    # Without a home the ~ stays, and would be a folder of the current one.
    own = {} if home.startswith("~") else _settings_in(Path(home, "settings")) or {}
    servers = [name.rstrip("/") for name in (SERVER, os.environ.get("WANDB_BASE_URL"), own.get("base_url")) if name]
    for file in (Path(".wandb", "settings"), Path("wandb", "settings")):
        if not os.path.lexists(file):
            continue
        if (settings := _settings_in(file)) is None:
            return f"wandb takes settings from {file} in the current folder, and it cannot be read: move it away"
        for key, value in settings.items():
            is_usual = key in HARMLESS or value == own.get(key) or (key == "base_url" and value.rstrip("/") in servers)
            if not is_usual:
                return (
                    f"wandb would take {shown(key)} from {file} in the current folder, by which your key may be sent "
                    "elsewhere: move the file away; if it is yours, write what you need of it into "
                    "~/.config/wandb/settings"
                )
    return None


def _settings_in(file: Path) -> dict[str, str] | None:
    """Returns what a file of wandb's settings says; None if it cannot be read."""
    found = configparser.ConfigParser()
    try:
        found.read_string(read_text_file(file))
        return dict(found.items("default")) if found.has_section("default") else {}
    except (OSError, DataError, configparser.Error):
        return None
