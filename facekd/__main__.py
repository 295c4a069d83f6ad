"""`python -m facekd`, which is also how the launcher of several processes starts the command."""

from facekd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
