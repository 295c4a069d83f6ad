"""Runs the command as `python -m facekd`, as the launcher of several processes does too."""

import os
import sys

if __name__ == "__main__":
    # `python -m` searches the working directory first, where a folder may have the name of one of our packages.
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    try:
        here = os.getcwd()  # noqa: PTH109
    except OSError:  # it is deleted
        here = ""
    if sys.path[0] == here != root and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    from facekd.cli import main
    from facekd.utils.processes.children import end_with_parent

    end_with_parent()
    raise SystemExit(main())
