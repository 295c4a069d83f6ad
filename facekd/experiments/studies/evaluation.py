"""Describes the ways in which a study evaluates its runs: on packs, on all pairs of people, as classifiers.

What else deals with a study reads here which verb runs, what it measures, and whether more or less of that is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from facekd.results.schema import CLASSIFICATION_FORMAT, FOLDER_FORMAT, LFW_FORMAT


@dataclass(frozen=True)
class Measure:
    """Describes a number that methods are compared by.

    Attributes:
        metric: its name in `results.json` and `results.csv`.
        title: its name in tables.
        read: returns it from the results of an evaluation; None where it was not measured.
        lower_is_better: whether less of it is better.
        far: the false accept rate of a TAR; None for another measure.
    """

    metric: str
    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    lower_is_better: bool = False
    far: float | None = None

    @property
    def name(self) -> str:
        """Returns its full name, such as `TAR at FAR 0.01`."""
        return self.title if self.far is None else f"{self.title} at FAR {self.far:g}"

    @property
    def column(self) -> str:
        """Returns the head of its column in tables of percents."""
        return f"{self.title} %" if self.far is None else f"{self.title} % at FAR {self.far:g}"


def _of_head(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Returns a reader of what was measured with the classifier that a model has itself."""

    def read(result: Mapping[str, Any]) -> float | None:
        heads = result.get("heads")
        head = heads.get("head") if isinstance(heads, dict) else None
        return head.get(key) if isinstance(head, dict) else None

    return read


EER = Measure("eer", "EER", lambda result: result.get("eer"), lower_is_better=True)
ACCURACY = Measure("accuracy", "accuracy", lambda result: (result.get("accuracy") or {}).get("mean"))
TOP1 = Measure("top1", "top-1", _of_head("top1"))
TOP5 = Measure("top5", "top-5", _of_head("top5"))
MEAN_OF_CLASSES = Measure("mean_class_top1", "mean over classes", _of_head("mean_class_top1"))
MEASURES = {one.metric: one for one in (EER, ACCURACY, TOP1, TOP5, MEAN_OF_CLASSES)}


def tar_at(far: float) -> Measure:
    """Returns the measure of the TAR at a FAR."""

    def read(result: Mapping[str, Any]) -> float | None:
        return next((point["tar"] for point in result.get("tar_at_far") or () if point["far"] == far), None)

    return Measure("tar", "TAR", read, far=far)


def measured_in(entry: Mapping[str, Any]) -> list[tuple[Measure, Any]]:
    """Returns what `results.json` of a study says of one method on one pack, measure by measure, the main one first.

    Args:
        entry: `methods[].packs.NAME`; a measure that the method lacks has None there.
    """
    found = [(one, entry[metric]) for metric, one in MEASURES.items() if metric in entry]
    return found + [(tar_at(point["far"]), point["tar"]) for point in entry.get("tar_at_far", ())]


def main_of(method: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what was measured by the main measure of the first pack; nothing if the method has none."""
    for entry in (method.get("packs") or {}).values():
        return measured_in(entry)[0][1] or {}
    return {}


@dataclass(frozen=True)
class Evaluation:
    """Describes a verb of `facekd evaluate` by which a study evaluates its runs.

    Attributes:
        verb: the second word of the command.
        format: that of its results.
        key: the key of a study's file that names what is evaluated on.
        option: the option of the verb that takes it.
        measures: what methods are compared by, the main measure first; TARs at the verb's FARs come on top.
        needed: keys that its results must have.
        set_of: returns from its results what tells one set from another.
        set_text: what differs between two sets, in words.
        describe: returns from the results of all runs what the report says of the set.
        held_fixed: what an interval over seeds does not cover, in words.
        has_pairs: whether it compares pairs of faces, so that there are FARs, and an ROC.
        has_people: whether other people would give other numbers, which an interval should cover.
        draws_people: whether all runs are measured under the same draws of people.
        options: its options where the file gives none.
        refused: options that no study can give, and why.
    """

    verb: Literal["lfw", "folder", "classification"]
    format: str
    key: str
    option: str
    measures: tuple[Measure, ...]
    needed: tuple[str, ...]
    set_of: Callable[[Mapping[str, Any]], Any]
    set_text: str
    describe: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    held_fixed: str = "the people and pairs evaluated on"
    has_pairs: bool = True
    has_people: bool = True
    draws_people: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def measures_of(self, results: Sequence[Mapping[str, Any]]) -> Iterator[Measure]:
        """Yields the measures of some results, with the FARs of the first; one that was asked for twice once."""
        yield from self.measures
        if self.has_pairs:
            fars = dict.fromkeys(point["far"] for point in results[0].get("tar_at_far") or ())
            yield from map(tar_at, fars)


def _describe_pairs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = results[0]
    about = first.get("pair_set") or {"sha256": first.get("set_sha256"), "num_subjects": first.get("num_people")}
    return {
        **{key: about.get(key) for key in ("sha256", "num_subjects")},
        **{key: first[key] for key in ("num_genuine", "num_impostor")},
        "protocols": sorted({result["protocol"]["text"] for result in results}),
    }


def _describe_images(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    data = results[0]["data"]
    about = {key: data[key] for key in ("split", "num_images", "num_classes")}
    return {"sha256": data.get("images_sha256"), "data": data["name"], **about}


def _images_of(result: Mapping[str, Any]) -> list[Any]:
    return [result["data"].get(key) for key in ("images_sha256", "labels_sha256", "num_images", "num_classes")]


ONE_HEAD = (
    "a study evaluates each model as it is deployed, with one classifier; other heads of a run: `facekd evaluate "
    "classification --model RUN --teacher-head TEACHER`"
)
PACKS = Evaluation(
    verb="lfw",
    format=LFW_FORMAT,
    key="packs",
    option="--pairs",
    measures=(EER, ACCURACY),
    needed=("eer", "tar_at_far", "accuracy", "pair_set"),
    set_of=lambda result: result["pair_set"]["sha256"],
    set_text="pairs",
    describe=_describe_pairs,
)
PEOPLE = Evaluation(
    verb="folder",
    format=FOLDER_FORMAT,
    key="people",
    option="--images",
    measures=(EER, ACCURACY),
    needed=("eer", "tar_at_far", "set_sha256", "num_people"),
    set_of=lambda result: result.get("set_sha256"),
    set_text="images or people",
    describe=_describe_pairs,
    draws_people=True,
    # Few columns, and no page for each run.
    options={"fars": [1e-2, 1e-3], "report": False},
)
CLASSIFICATION = Evaluation(
    verb="classification",
    format=CLASSIFICATION_FORMAT,
    key="classification",
    option="--data",
    measures=(TOP1, TOP5, MEAN_OF_CLASSES),
    needed=("data", "heads"),
    set_of=_images_of,
    set_text="images or classes",
    describe=_describe_images,
    held_fixed="the images evaluated on",
    has_pairs=False,
    has_people=False,
    refused={"teacher-head": ONE_HEAD, "mix": ONE_HEAD},
)
