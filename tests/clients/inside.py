"""Runs in the environment of a client, without facekd: embeds faces with one of `examples/clients/` and measures.

    python inside.py CLIENT.py FACES.npy SECONDS < jobs.json

A job has the keys of `Job` in `routes.py`. For each this writes the embeddings (.npy), and prints `RESULT ` and a line
of JSON: the `form`, and an `error` or the images for each second of processor time, one at a time on one core.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time

import numpy as np


def main() -> None:
    """Does the jobs in turn; one that raises does not end the others."""
    client_file, faces_file, seconds = sys.argv[1:]
    faces, jobs = np.load(faces_file), json.load(sys.stdin)
    # On a single core no client has more than one thread at work, whatever it is told by.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    calm_onnxruntime()
    spec = importlib.util.spec_from_file_location("client", client_file)
    assert spec and spec.loader
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    for job in jobs:
        result = {"form": job["form"]}
        try:
            result["speed"] = do(client, job, faces, float(seconds))
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"
        print(f"\nRESULT {json.dumps(result)}", flush=True)


def calm_onnxruntime() -> None:
    """Gives onnxruntime's sessions one thread: by itself it has one for each core of the machine, which wait busily."""
    try:
        import onnxruntime
    except ImportError:
        return
    original = onnxruntime.InferenceSession.__init__

    def with_one_thread(self, path, sess_options=None, **keywords) -> None:
        sess_options = sess_options or onnxruntime.SessionOptions()
        sess_options.intra_op_num_threads = 1
        original(self, path, sess_options, **keywords)

    onnxruntime.InferenceSession.__init__ = with_one_thread


def do(client, job, faces: np.ndarray, seconds: float) -> float:
    """Embeds all faces and writes the embeddings; returns images a second of processor time."""
    embed = client.open_model(job["model"], **job["keywords"])
    # All sizes of batches in one opened model, until each face was in one.
    found, done = [], 0
    while done < len(faces):
        size = job["batches"][min(len(found), len(job["batches"]) - 1)]
        found.append(np.asarray(embed(faces[done : done + size])))
        done += size
    np.save(job["embeddings"], np.concatenate(found))

    # One at a time, by the processor's time, which other programs do not lengthen.
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        embed(faces[:1])
        count += 1
    return count / (time.process_time() - start)


if __name__ == "__main__":
    main()
