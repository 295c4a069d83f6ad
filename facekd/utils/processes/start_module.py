"""Runs a module as `python -m` does, but never looks for it in the working directory.

    python .../facekd/utils/processes/start_module.py facekd train CONFIG.yaml

`python -m` searches the folder where it runs first: one that has a folder `evaluation` of its own would hide ours.
Python's own remedy, `-P`, exists from 3.11 on. The file is run by its path alone, so it must import nothing of facekd.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    # Python has put this file's folder first, where modules of ours have the names of others (not so under -P and -I).
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]
    # A facekd that is not installed is found beside this file.
    root = os.path.abspath(__file__)  # noqa: PTH100 - pathlib is slower to import than all of this
    for _ in range(4):
        root = os.path.dirname(root)  # noqa: PTH120
    if root not in sys.path:
        sys.path.insert(0, root)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
