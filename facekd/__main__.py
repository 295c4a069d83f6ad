"""`python -m facekd`, which is also how the launcher of several processes starts the command."""

from facekd.cli import main
from facekd.utils.processes import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    raise SystemExit(main())
