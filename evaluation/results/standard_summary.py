"""Summarises a result in the words of ISO/IEC 19795-1, for a report that somebody signs.

The standard's terms, in short: a technology evaluation compares stored samples offline; mated comparisons are of one
person, non-mated ones of two; FMR and FNMR are the shares of false matches among non-mated and of false non-matches
among mated comparisons, FPIR and FNIR the same of searches; a failure to acquire gives no features. The summary holds
what the results say, and says "not known" where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from facekd.pages.numbers import interval, percent, threshold
from facekd.pages.tables import Table
from facekd.results.reading import name_of_set
from facekd.results.schema import FOLDER_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT
from facekd.utils.wording import counted

TITLE = "Summary in the words of ISO/IEC 19795-1"
UNKNOWN = "not known"


def standard_table(result: dict[str, Any]) -> Table:
    """Returns the summary: what was tested, on whom, the error rates with their intervals, and how to repeat it."""
    rows = [
        ["kind of evaluation", "technology evaluation: stored images, compared offline"],
        ["test set", f"{name_of_set(result)}, SHA-256 of its lists or images {_digest_of_set(result)}"],
        ["system tested", _system(result)],
        ["test subjects", _subjects(result)],
        ["failure to enrol", "not measured: the set was enrolled as it is"],
        ["failure to acquire", _failures(result)],
    ]
    rows += _verification(result)
    rows += _identification(result)
    rows += [
        ["intervals, 95 %", _intervals(result)],
        ["software", ", ".join(f"{name} {version}" for name, version in (result.get("software") or {}).items())],
        ["repeat by", result.get("command") or UNKNOWN],
    ]
    return Table(TITLE, ["", "value"], [[name, value] for name, value in rows])


def _digest_of_set(result: dict[str, Any]) -> str:
    if result["format"] == LFW_FORMAT:
        return result["pair_set"]["sha256"]
    if result["format"] == FOLDER_FORMAT:
        return result.get("set_sha256") or UNKNOWN
    return result["dataset"]["fingerprint"]


def _system(result: dict[str, Any]) -> str:
    """Names the model by its file and digest, or the embeddings that were given."""
    source = result.get("model") or result.get("embeddings") or {}
    digest = source.get("sha256") or source.get("fingerprint") or UNKNOWN
    what = "model" if result.get("model") else "embeddings made elsewhere"
    return f"{what} {source.get('path') or UNKNOWN}, SHA-256 {digest}"


def _subjects(result: dict[str, Any]) -> str:
    """Says how many people were compared, as far as the results say."""
    about = result.get("dataset") or result.get("pair_set") or result
    if result["format"] == PROTOCOL_FORMAT:
        galleries = {key: value for key, value in about.items() if key.startswith("num_gallery_subjects")}
        if galleries and result.get("identification"):
            return f"{about['num_probe_subjects']:,} in the probes, {sum(galleries.values()):,} in the galleries"
        return f"{(result.get('bootstrap') or {}).get('num_subjects') or UNKNOWN}"
    count = about.get("num_subjects", result.get("num_people"))
    return UNKNOWN if count is None else f"{count:,}"


def _failures(result: dict[str, Any]) -> str:
    """Says how many images gave no features."""
    if not result.get("model"):
        return f"{UNKNOWN}: the embeddings were made elsewhere"
    lost = result.get("failures")
    if lost:
        return f"{percent(lost['rate'])} % ({interval(lost['ci95'])}), {counted(lost['num_images'], 'image')}"
    dropped = {name: count for name, count in (result.get("dropped") or {}).items() if count}
    if dropped:
        words = {name: name.replace("_", " ") for name in dropped}
        parts = [counted(count, words[name].removesuffix("s"), words[name]) for name, count in dropped.items()]
        return f"{', '.join(parts)} left out"
    return "none: every image of the set gave features"


def _verification(result: dict[str, Any]) -> Iterator[list[str]]:
    """Yields the comparisons and the error rates of 1:1."""
    points = result.get("tar_at_far") or []
    if not points:
        return
    yield ["mated comparisons", f"{points[0]['num_genuine']:,}"]
    yield ["non-mated comparisons", f"{points[0]['num_impostor']:,}"]
    if result.get("eer") is not None:
        bounds = f" ({interval(result['eer_ci95'])})" if result.get("eer_ci95") else ""
        yield ["equal error rate", f"{percent(result['eer'])} %{bounds}"]
    for point in points:
        name = f"FNMR at FMR {point['far']:g}"
        if point["tar"] is None:
            yield [name, "not measurable with these comparisons"]
            continue
        yield [name, f"{_missed(point['tar'], point.get('ci95'))}, threshold {threshold(point['threshold'])}"]


def _identification(result: dict[str, Any]) -> Iterator[list[str]]:
    """Yields the searches and the error rates of 1:N, gallery by gallery."""
    for name, gallery in (result.get("identification") or {}).items():
        if gallery.get("num_gallery") is None:
            continue
        mated, alone = gallery["num_mated"], gallery["num_nonmated"]
        yield [
            f"searches, {name}",
            f"{mated:,} mated, {alone:,} non-mated, among {gallery['num_gallery']:,} references",
        ]
        for point in gallery["tpir_at_fpir"]:
            if point["tpir"] is not None:
                text = f"{_missed(point['tpir'], point.get('ci95'))}, threshold {threshold(point.get('threshold'))}"
                yield [f"FNIR at FPIR {point['fpir']:g}, {name}", text]
        for entry in gallery["rank"]:
            if entry["rate"] is not None:
                bounds = f" ({interval(entry['ci95'])})" if entry.get("ci95") else ""
                yield [f"rank-{entry['rank']} identification rate, {name}", f"{percent(entry['rate'])} %{bounds}"]
    for entry in result.get("rank") or []:
        bounds = f" ({interval(entry['ci95'])})" if entry.get("ci95") else ""
        yield [f"rank-{entry['rank']} identification rate", f"{percent(entry['rate'])} %{bounds}"]


def _intervals(result: dict[str, Any]) -> str:
    """Says how the intervals were made."""
    parts = []
    points = result.get("tar_at_far") or []
    bootstrap = result.get("bootstrap") or {}
    kinds = sorted({point["interval"] for point in points if point.get("interval")})
    if kinds:
        drawn = (
            f", {counted(bootstrap['replicates'], 'draw')} of {bootstrap['resampled']}"
            if bootstrap.get("resampled")
            else ""
        )
        parts.append(f"comparisons: {', '.join(kinds)}{drawn}")
    if result.get("search_intervals"):
        parts.append(f"searches: {result['search_intervals']}")
    elif result.get("rank") or result.get("identification"):
        parts.append("searches: Wilson's, as if probes were independent")
    return "; ".join(parts) or "none"


def _missed(accepted: float, bounds: list[float] | None) -> str:
    """Writes a true accept rate as the share that was missed."""
    text = f"{percent(1 - accepted)} %"
    return text + (f" ({interval([1 - bounds[1], 1 - bounds[0]])})" if bounds else "")
