"""Runs the command as `python -m facekd`, as the launcher of several processes does too."""

from facekd.cli import main
from facekd.utils.processes import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    raise SystemExit(main())
