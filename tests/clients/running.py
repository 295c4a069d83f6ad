"""Runs a client on files, each kind of client in its own way, and compares its embeddings with torch's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tests.clients.environments import EXAMPLES
from tests.clients.models import EMBEDDING_SIZE, FORMS, file_of
from tests.clients.routes import Job, Route

HERE = Path(__file__).resolve().parent
SIZES = [1, 2, 5, 8]  # of batches, in one opened model
NUM_PICTURES = 4  # for the page, which takes two at a time
MAX_SECONDS = 600  # for all forms of a client


class Found(NamedTuple):
    """Holds what came of one form: why it failed, or how well it agrees and images a second (0: not measured)."""

    error: str = ""
    cosine: float = 0.0
    mean_cosine: float = 0.0
    relative_error: float = 0.0
    speed: float = 0.0


def try_forms(route: Route, forms: list[str], environment: Path, models: Path, work: Path, seconds: float) -> Iterator:
    """Yields (form, Found) for each form, in order.

    Args:
        route: the client.
        forms: names of `FORMS`.
        environment: the folder that `make_environment` returned.
        models: the folder that `make_all` filled.
        work: a folder for what the client writes; it is emptied.
        seconds: processor time that each measurement takes.
    """
    # A folder of the client's own, because converters write beside the model.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    jobs: list[Job] = []
    for form in forms:
        model = file_of(work, form)
        model.symlink_to(file_of(models, form))
        batches = [FORMS[form].batch] if FORMS[form].batch else SIZES
        embeddings = str(model.with_suffix(".found.npy"))
        keywords = route.forms[form]
        jobs.append(
            {"form": form, "model": str(model), "embeddings": embeddings, "batches": batches, "keywords": keywords}
        )
    if route.kind == "python":
        results = _by_python(route, jobs, environment, models, seconds)
    else:
        one = {"node": _by_node, "browser": _by_page, "cpp": _by_program}[route.kind]
        results = ((job, *_guarded(one, route, job, environment, models, seconds)) for job in jobs)
    for job, speed, error in results:
        yield job["form"], _compare(job, models, speed) if not error else Found(error=" ".join(error.split())[-300:])


def _compare(job: Job, models: Path, speed: float) -> Found:
    truth = np.load(file_of(models, job["form"]).with_suffix(".npy")).astype(np.float64)
    try:
        found = np.load(job["embeddings"]).astype(np.float64)
    except (OSError, ValueError) as error:
        return Found(error=f"its embeddings cannot be read: {error}")
    truth = truth[: len(found)]
    if found.shape != truth.shape or not np.isfinite(found).all():
        return Found(error=f"gave {found.shape} instead of {truth.shape}, or numbers that are not finite")
    lengths = np.linalg.norm(truth, axis=1)
    cosine = (found * truth).sum(1) / np.maximum(lengths * np.linalg.norm(found, axis=1), 1e-30)
    error = np.linalg.norm(found - truth, axis=1) / lengths
    return Found("", float(cosine.min()), float(cosine.mean()), float(error.max()), speed)


def _by_python(
    route: Route, jobs: list[Job], environment: Path, models: Path, seconds: float
) -> Iterator[tuple[Job, float, str]]:
    """Does all jobs in one process, and in another what is left when that one has crashed."""
    words = [str(environment / "bin" / "python"), str(HERE / "inside.py"), str(EXAMPLES / route.file)]
    while jobs:
        done = _run([*words, str(models / "faces.npy"), str(seconds)], environment, text=json.dumps(jobs))
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        for line in lines:
            result = json.loads(line.removeprefix("RESULT "))
            yield jobs.pop(0), result.get("speed", 0.0), result.get("error", "")
        if jobs:
            yield jobs.pop(0), 0.0, f"ended with status {done.returncode}: {done.stderr[-300:]}"


def _guarded(one, *words) -> tuple[float, str]:
    """Returns images a second and an empty text, or 0 and why it failed."""
    try:
        return one(*words), ""
    except Exception as error:  # whatever it is, it hides no other form and no other client
        return 0.0, f"{type(error).__name__}: {error}"


def _by_node(route: Route, job: Job, environment: Path, models: Path, seconds: float) -> float:
    # node finds packages from where a file lies.
    client = environment / Path(route.file).name
    shutil.copyfile(EXAMPLES / route.file, client)
    raw, batches = _faces_as_bytes(models), ",".join(map(str, job["batches"]))
    target = Path(job["embeddings"]).with_suffix(".f32")
    words = ["node", str(HERE / "node_side.mjs"), str(client), job["model"], str(raw), str(target), batches]
    result = json.loads(_checked([*words, str(seconds)], environment).splitlines()[-1])
    _from_floats(target, job)
    return result["images_per_second"]


def _by_page(route: Route, job: Job, environment: Path, models: Path, seconds: float) -> float:
    side, pictures = environment / "browser_side.mjs", models / "pictures"
    shutil.copyfile(HERE / side.name, side)
    pictures.mkdir(exist_ok=True)
    for number, face in enumerate(np.load(models / "faces.npy")[:NUM_PICTURES]):
        cv2.imwrite(str(pictures / f"{number}.png"), face[..., ::-1])
    target, page = Path(job["embeddings"]).with_suffix(".f32"), (EXAMPLES / route.file).parent
    screenshot = Path(job["model"]).with_suffix(".png")
    words = ["node", str(side), str(page), job["model"], str(pictures), str(target), str(screenshot)]
    _checked(words, environment)
    _from_floats(target, job)
    return 0.0


def _by_program(route: Route, job: Job, environment: Path, models: Path, seconds: float) -> float:
    program = environment / "cpp" / "embed"
    target = Path(job["embeddings"]).with_suffix(".f32")
    said = _checked([str(program), job["model"], str(_faces_as_bytes(models)), str(target)], environment)
    _from_floats(target, job)
    return float(said)


def _faces_as_bytes(models: Path) -> Path:
    path = models / "faces.rgb"
    if not path.exists():
        np.load(models / "faces.npy").tofile(path)
    return path


def _from_floats(target: Path, job: Job) -> None:
    np.save(job["embeddings"], np.fromfile(target, np.float32).reshape(-1, EMBEDDING_SIZE))


def _checked(words: list[str], environment: Path) -> str:
    done = _run(words, environment)
    if done.returncode:
        raise ValueError(f"ended with status {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def _run(words: list[str], environment: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a client in its environment on one thread; one that takes too long ends with status 124."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"
    variables.pop("PYTHONPATH", None)
    try:
        return subprocess.run(
            words, cwd=environment, env=variables, input=text, capture_output=True, text=True, timeout=MAX_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return subprocess.CompletedProcess(words, 124, said, f"took more than {MAX_SECONDS} s")
