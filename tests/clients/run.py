"""Exports files in many forms, and embeds the same faces with every client that docs/clients.md names.

    python -m tests.clients.run                          # all, in under 15 minutes
    python -m tests.clients.run --clients opencv ncnn    # those whose name has one of these words

Environments are made in `.venv-clients/` and kept. Embeddings are compared with torch's. A table ends the output; the
status is 1 if a form fails that `routes.py` promises. A client that cannot be had hides none of the others.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.environments import FOLDER, CannotMake, IsMissing, make_environment
from tests.clients.models import FORMS, make_all
from tests.clients.routes import ROUTES, Route
from tests.clients.running import Found, try_forms

BASELINE = ROUTES[0]
COLUMNS = ("client", "version", "worst cosine", "relative error", *FORMS)


@dataclass
class Row:
    """Holds what was found of one client.

    Attributes:
        route: the client.
        version: of its package.
        found: what came of each form.
        speeds: images a second of onnxruntime, of each network, just before.
        absent: why there is no environment.
        is_missing: it is the machine that lacks something.
    """

    route: Route
    version: str = ""
    found: dict[str, Found] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    absent: str = ""
    is_missing: bool = False

    def is_good(self, form: str) -> bool:
        """Tells whether a form gave torch's embeddings."""
        found, route, wanted = self.found[form], self.route, FORMS[form]
        least = min(route.least_cosine, wanted.least_cosine)
        most = max(route.most_error, wanted.most_error)
        return not found.error and found.cosine >= least and found.relative_error <= most

    def failures(self) -> list[str]:
        """Returns a line for each promise that is not kept."""
        name = f"{self.route.name} {self.version}".strip()
        if self.absent:
            return [] if self.route.is_optional or self.is_missing else [f"{name}: {self.absent}"]
        # Files of fewer bits are promised to work in onnxruntime alone; of the others it is told what came of them.
        told = [form for form in FORMS if FORMS[form].is_reduced and self.route is not BASELINE]
        bad = [form for form in self.found if not self.is_good(form) and form not in {*self.route.known, *told}]
        return [f"{name}, {form}: {self.found[form].error or 'differs from torch'}" for form in bad]

    def cells(self) -> list[str]:
        """Returns the row of the table: how fast each form is beside onnxruntime with the default form."""
        good = [found for form, found in self.found.items() if self.is_good(form) and not FORMS[form].is_reduced]
        cosine = min((found.cosine for found in good), default=float("nan"))
        error = max((found.relative_error for found in good), default=float("nan"))
        cells = [self.route.name, self.version, f"{cosine:.6f}", f"{error:.0e}"]
        for form in FORMS:
            if form not in self.found:
                cells.append("")
            elif not self.is_good(form):
                cells.append("no")
            else:
                baseline = self.speeds.get(FORMS[form].backbone, 0.0)
                speed = self.found[form].speed
                cells.append(f"{speed / baseline:.2f}" if speed and baseline else "yes")
        return cells


def main() -> int:
    """Makes the files, tries every client, prints the table; returns 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", default=[""], metavar="WORD", help="those with a word in their name")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    parser.add_argument("--models", type=Path, help="a folder that keeps the exported files for the next time")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement (default: 0.5)")
    parser.add_argument("--uv", default="uv", help="the program uv")
    arguments = parser.parse_args()
    routes = [r for r in ROUTES if any(word.lower() in r.name.lower() for word in arguments.clients)]
    if not routes:
        parser.error(f"--clients: there are {', '.join(sorted({route.name for route in ROUTES}))}")
    with tempfile.TemporaryDirectory() as scratch:
        # Export; a kept folder is complete once it has its mark.
        models = (arguments.models or Path(scratch) / "models").absolute()
        models.mkdir(parents=True, exist_ok=True)
        if not (models / "complete").exists():
            make_all(models)
            (models / "complete").touch()
        rows = [try_route(route, models, Path(scratch), arguments) for route in routes]

    print(f"\n{datetime.date.today():%d %B %Y}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        if not row.absent:
            print(f"| {' | '.join(row.cells())} |")
    absent = [f"not tried: {row.route.name}: {row.absent}" for row in rows if row.absent]
    failures = [line for row in rows for line in row.failures()]
    print("\n".join(["", *absent, *(failures or ["all promises kept"])]))
    return 1 if failures else 0


def try_route(route: Route, models: Path, scratch: Path, arguments: argparse.Namespace) -> Row:
    """Tries all forms of a client, and prints a line for each."""
    row = Row(route)
    forms = [form for form in route.forms if form in arguments.forms]
    try:
        environment, row.version = make_environment(route, arguments.uv)
        # onnxruntime just before, because other load on the machine changes from minute to minute.
        baseline, _ = make_environment(BASELINE, arguments.uv)
        networks = {FORMS[form].backbone: form for form in ("IR-18", "default")}
        for form, found in try_forms(
            BASELINE, list(networks.values()), baseline, models, scratch / "baseline", arguments.seconds
        ):
            row.speeds[FORMS[form].backbone] = found.speed
        for form, found in try_forms(route, forms, environment, models, scratch / "client", arguments.seconds):
            row.found[form] = found
            agrees = f"cosine {found.cosine:.7f} at worst, {found.mean_cosine:.7f} on average"
            said = found.error or f"{agrees}, relative error {found.relative_error:.1e}, {found.speed:.1f} images/s"
            reason = f" (known: {route.known[form]})" if form in route.known else ""
            print(f"{route.name} {row.version}, {form}: {said}{reason}", flush=True)
    except CannotMake as error:
        row.absent, row.is_missing = str(error), isinstance(error, IsMissing)
        print(f"{route.name}: {row.absent}", flush=True)
    return row


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    raise SystemExit(main())
