"""Runs mxnet's side of `records.py` in the environment that has mxnet, without facekd.

Reads one request a line from standard input, `{"do": name, ...}`, and writes one answer a line to standard output: the
action's result and the seconds it took, as wall-clock time and processor time.
"""

import hashlib
import json
import os
import sys
import time

import numpy as np

np.bool = bool  # an alias mxnet 1.9.1 still uses

from mxnet import recordio  # noqa: E402


class Stopwatch:
    """Returns the wall-clock and processor seconds since it was created."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def __call__(self):
        return [time.perf_counter() - self.start[0], time.process_time() - self.start[1]]


def index(rec, idx):
    watch = Stopwatch()
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    seconds = watch()
    reader.close()
    return seconds, None


def scan(rec):
    reader = recordio.MXRecordIO(rec, "r")
    watch = Stopwatch()
    count = 0
    while reader.read() is not None:
        count += 1
    return watch(), count


def digest(rec, idx, keys):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    found = hashlib.sha256()
    for key in keys:
        header, image = recordio.unpack(reader.read_idx(key))
        found.update(b"%d " % int(np.atleast_1d(header.label)[0]) + image)
    return [0, 0], found.hexdigest()


def read(rec, idx, keys):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    watch = Stopwatch()
    for key in keys:
        recordio.unpack(reader.read_idx(key))
    return watch(), None


def write(rec, idx, source, source_idx, keys):
    reader = recordio.MXIndexedRecordIO(source_idx, source, "r")
    images = [recordio.unpack(reader.read_idx(key))[1] for key in keys]
    watch = Stopwatch()
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    for number, image in enumerate(images):
        writer.write_idx(number, recordio.pack(recordio.IRHeader(0, 1.0, number, 0), image))
    writer.close()
    return watch(), None


def extract(rec, idx, keys, folder):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    watch = Stopwatch()
    for key in keys:
        header, image = recordio.unpack(reader.read_idx(key))
        name = os.path.join(folder, str(int(np.atleast_1d(header.label)[0])))  # noqa: PTH118 - pathlib takes longer
        os.makedirs(name, exist_ok=True)  # noqa: PTH103
        with open(os.path.join(name, f"{key}.jpg"), "wb") as stream:  # noqa: PTH118, PTH123
            stream.write(image)
    return watch(), None


ACTIONS = {action.__name__: action for action in (index, scan, digest, read, write, extract)}

for line in sys.stdin:
    request = json.loads(line)
    seconds, result = ACTIONS[request.pop("do")](**request)
    print(json.dumps({"seconds": seconds, "result": result}), flush=True)
