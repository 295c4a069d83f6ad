"""Verb `facekd evaluate ijbc`: evaluates a model on IJB-B, IJB-C, or any set in their layout, 1:1 and 1:N.

Also `python evaluation/evaluate_ijbc.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.measuring import add_groups_option
from evaluation.groups.template_groups import TemplateGroups, read_template_groups
from evaluation.ijb.embed import add_embedding_options, open_embeddings
from evaluation.ijb.metrics import (
    add_bootstrap,
    describe_dataset,
    find_worst,
    listed_errors,
    measure_identification,
    score_protocol,
)
from evaluation.ijb.pooling import (
    PRESETS,
    EmbeddingRows,
    Faces,
    Pooling,
    UselessEmbeddingsError,
    notes_on_norms,
    pool_templates,
)
from evaluation.ijb.pooling_options import add_pooling_switches, choose_poolings, chosen_pooling
from evaluation.ijb.problems import (
    Findings,
    Kept,
    as_plain,
    describe_cost,
    find_problems,
    people_of_templates,
    settle,
    subjects_of_templates,
    text_of,
)
from evaluation.ijb.protocol import TARGETS, IjbProtocol, load_protocol
from evaluation.ijb.quality import (
    check_quality_options,
    measure_template_quality,
    read_face_qualities,
    take_model_qualities,
    with_lengths,
)
from evaluation.result_files import check_output, lock_output, make_result, start_evaluation, write_arrays
from evaluation.results.page import write_report
from evaluation.results.terminal import print_ijb_results
from evaluation.results.transferred import add_transfer_option, describe_transferred, read_transferred
from evaluation.sets.cohort import Normaliser, add_norm_options, check_norm_options, read_normaliser
from evaluation.shared_options import (
    add_halves_option,
    add_metric_options,
    add_model_option,
    add_output_option,
    add_report_switch,
    add_rule_option,
    check_halves_option,
    check_metric_options,
    refuse_preprocessing,
    rule_text,
)
from facekd.commands.command_line import CommandParser
from facekd.embedder.model_options import add_model_options
from facekd.errors import FacekdError, run_verb
from facekd.files.result_folder import finish_results
from facekd.results.schema import IJB_FORMAT
from facekd.results.thresholds import MeasuredThresholds
from facekd.utils.processes.children import launcher_number
from facekd.verification.calibration import calibrate
from facekd.verification.measures import measure_verification, notes_on_ties, verification_curves

RESULT_VERSION = 1
EXAMPLE = """\
examples:
  facekd evaluate ijbc --model model.onnx --root IJB_release/IJBC --target IJBC --output runs/ijbc

  embeddings made elsewhere, rows as in ijbc_name_5pts_score.txt, under every combination of the switches:
  facekd evaluate ijbc --embeddings embeddings.npy --root IJB_release/IJBC --all-protocols --output runs/ijbc

  as InsightFace scores, with its rule for the threshold, to compare with its published table:
  facekd evaluate ijbc --model r50.onnx --root IJBC --protocol-like insightface --rule insightface --output runs/r50

  four processes embed together, then one of them scores:
  python -m torch.distributed.run --nproc_per_node 4 -m evaluation.evaluate_ijbc --model ... --device cuda

Third-party models are evaluated the same way; pass their preprocessing as flags. If there are too few impostor pairs
for a FAR, the report says so instead of printing a number.

writes to DIR:
  results.json         every number (its keys: docs/results.md)
  scores.npy           one cosine per pair
  curves.npz           ROC, CMC and DET
  report.html, report.md, results.csv
  groups.html          with --groups: error rates by group
  embeddings/          the same command resumes after an interruption, and other switches do not need the model again
"""


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates; the binary copy of the text files is written meanwhile."""
    arguments = _parse(argv)
    is_main = launcher_number("RANK", 0) == 0
    with lock_output(Path(arguments.output), is_main, arguments), ThreadPoolExecutor(1) as background:
        check_output(Path(arguments.output))
        return _evaluate(arguments, argv, background)


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None, background: Executor) -> int:
    """Reads, embeds, pools, scores, measures, writes and prints."""
    # The templates of the set, under each pooling that is asked for.
    seconds: dict[str, float] = {}
    thresholds, normaliser = read_transferred(arguments), read_normaliser(arguments)
    with _timed(seconds, "read"):
        protocol = load_protocol(arguments.root, arguments.target, arguments.protocol_cache, background)
        evaluated = _choose_evaluated(arguments, protocol)
        uses_detection_scores = arguments.all_protocols or chosen_pooling(arguments, True).weight_by_detection_score
        findings = find_problems(protocol, arguments.embeddings is None, uses_detection_scores)
        subjects, subjects_from = subjects_of_templates(protocol)
        groups = read_template_groups(arguments.groups, protocol, evaluated, subjects)
        qualities, source_of_quality = read_face_qualities(arguments, protocol)
        if normaliser is not None:
            normaliser.check_people(people_of_templates(protocol), str(protocol.root))
    with _timed(seconds, "embed"):
        flip = arguments.all_protocols or chosen_pooling(arguments, True).flip_augment
        rows, source, of_model = open_embeddings(arguments, protocol, findings, flip)
    if rows is None:  # another process of this run scores
        return 0
    if of_model is not None:
        qualities = take_model_qualities(arguments, of_model, protocol.face_images[findings.keep_faces])
    poolings = choose_poolings(arguments, rows)
    _check_settings(thresholds, normaliser, source, poolings[0].flip_augment)
    with _timed(seconds, "pool"):
        kept, pooled = _pool(arguments, protocol, findings, rows, poolings, qualities)

    # Their scores and measures.
    measured = []
    for templates in pooled:
        own = (groups, thresholds) if not measured else (None, None)  # both are about the first pooling
        found = _measure(arguments, protocol, kept, evaluated, templates, subjects, seconds, normaliser, *own)
        # Only the first pooling's scores and curves are written: those of eight would be a gigabyte.
        measured.append(found if not measured else (found[0], None, {}))
    results, scores, curves = measured[0]
    results["quality"] = None
    if arguments.quality is not None and scores is not None:
        faces = with_lengths(_faces(protocol, kept, qualities), rows, poolings[0].flip_augment, str(protocol.root))
        results["quality"] = measure_template_quality(
            arguments, protocol, faces, scores, results["tar_at_far"], subjects, source_of_quality
        )
    results["notes"] += notes_on_norms(rows, np.unique(protocol.face_images[kept.faces]), poolings)
    content = {
        **source,
        "dataset": describe_dataset(protocol, subjects, subjects_from),
        "problems": as_plain(findings.problems),
        "dropped": kept.dropped,
        "protocol": _describe_protocol(arguments, poolings[0], evaluated),
        **results,
        "protocols": _describe_protocols(arguments, poolings, [found for found, _, _ in measured], evaluated),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    if normaliser is not None:
        normaliser.describe(content)
    result = make_result(IJB_FORMAT, RESULT_VERSION, content, "evaluate ijbc", argv)
    _write(arguments, result, scores, curves)
    print_ijb_results(result)
    print(f"\nwritten to {arguments.output}")
    return 0


def _check_settings(
    thresholds: MeasuredThresholds | None, normaliser: Normaliser | None, source: dict[str, Any], flip: bool
) -> None:
    """Refuses thresholds and cohorts of another model, or of embeddings that were made otherwise."""
    if thresholds is not None:
        thresholds.check_settings(source["model"], flip, "these templates")
    if normaliser is not None:
        normaliser.check(source["model"], flip)


def _write(
    arguments: argparse.Namespace, result: dict[str, Any], scores: np.ndarray | None, curves: dict[str, np.ndarray]
) -> None:
    """Writes the files of the output folder, results.json last."""
    output = Path(arguments.output)
    start_evaluation(output)
    write_arrays(output, scores, curves)
    if arguments.report:
        write_report(output, result)
    finish_results(output, result)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd evaluate ijbc",
        description="Evaluates a model on IJB-B, IJB-C, or any set in their layout: 1:1 TAR@FAR, 1:N TPIR@FPIR.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # The embeddings: from a model, or ready.
    source = parser.add_mutually_exclusive_group(required=True)
    add_model_option(source, required=False)
    source.add_argument(
        "--embeddings",
        metavar="FILE.npy",
        help="or embeddings made elsewhere: (N, D), or (N, 2D) with those of the mirror images in the second half; "
        "rows as in *_name_5pts_score.txt",
    )
    # The data set, and what is measured on it.
    add("--root", required=True, metavar="DIR", help="folder that holds meta/ and loose_crop/")
    add("--target", choices=tuple(TARGETS), default="IJBC", help="the set that the file names carry (default: IJBC)")
    add_output_option(parser)
    add(
        "--protocol",
        choices=("1:1", "1:N", "both"),
        help="default: both if the 1:N files are there, else 1:1",
    )
    add_rule_option(parser)
    add_metric_options(parser)
    add_transfer_option(parser)
    add_norm_options(parser)
    add_groups_option(parser, "person (subject id, if the 1:N files name them), template or image")
    add("--calibrate", action="store_true", help="fit log-likelihood ratios to the scores and report Cllr")
    add("--on-missing", choices=("fail", "drop"), default="fail", help="if faces cannot be used: stop "
        "(default), or leave them out and report how much is lost")  # fmt: skip
    add_pooling_switches(parser)
    add_halves_option(parser)
    # What is written, and how the model is run.
    add_report_switch(parser)
    add(
        "--protocol-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the text files in binary too",
    )
    add_embedding_options(parser)
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    check_metric_options(parser, arguments)
    check_norm_options(parser, arguments)
    # What a parser cannot express: combinations and ranges.
    check_halves_option(parser, arguments, arguments.embeddings is not None)
    if arguments.embeddings is not None:
        refuse_preprocessing(parser, arguments)
    check_quality_options(parser, arguments)
    return arguments


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def _choose_evaluated(arguments: argparse.Namespace, protocol: IjbProtocol) -> str:
    asked = arguments.protocol
    if protocol.probes is None and asked in ("1:N", "both"):
        names = ", ".join(f"{TARGETS[protocol.target].prefix}_1N_{name}.csv" for name in ("gallery_*", "probe_mixed"))
        raise FacekdError(f"--protocol {asked}: {protocol.root / 'meta'} holds no {names}; --protocol 1:1 needs none")
    evaluated = asked or ("1:1" if protocol.probes is None else "both")
    for option, given in (("--thresholds-from", arguments.thresholds_from), ("--calibrate", arguments.calibrate)):
        if given and evaluated == "1:N":
            raise FacekdError(f"{option} is about 1:1 comparisons: leave out --protocol 1:N")
    if arguments.score_norm and evaluated != "1:1":
        raise FacekdError("--score-norm is about 1:1 comparisons: give --protocol 1:1")
    return evaluated


def _pool(
    arguments: argparse.Namespace,
    protocol: IjbProtocol,
    findings: Findings,
    rows: EmbeddingRows,
    poolings: list[Pooling],
    qualities: np.ndarray | None,
) -> tuple[Kept, list[np.ndarray]]:
    """Returns the usable part of the set and its templates under each pooling; prints problems on the way."""
    kept = settle(findings, arguments.on_missing)
    try:
        pooled = pool_templates(rows, _faces(protocol, kept, qualities), protocol.template_ids, poolings)
    except UselessEmbeddingsError as error:
        text = "embedding all zeros or not finite: the model is broken, its preprocessing wrong, or fp16 overflowed"
        findings.drop_images("embedding", error.images, text)
        kept = settle(findings, arguments.on_missing)
        pooled = pool_templates(rows, _faces(protocol, kept, qualities), protocol.template_ids, poolings)
    for problem in findings.problems:
        print(text_of(problem), file=sys.stderr)
    if any(kept.dropped.values()):
        print(describe_cost(protocol, kept.dropped), file=sys.stderr)
    return kept, pooled


def _faces(protocol: IjbProtocol, kept: Kept, qualities: np.ndarray | None) -> Faces:
    some = slice(None) if kept.faces.all() else kept.faces
    images = protocol.face_images[some]
    own = None if qualities is None else qualities[images]
    scores = protocol.detection_scores[images]
    return Faces(images, protocol.face_templates[some], protocol.face_media[some], scores, own)


def _measure(
    arguments: argparse.Namespace,
    protocol: IjbProtocol,
    kept: Kept,
    evaluated: str,
    templates: np.ndarray,
    subjects: np.ndarray,
    seconds: dict[str, float],
    normaliser: Normaliser | None,
    groups: TemplateGroups | None,
    thresholds: MeasuredThresholds | None,
) -> tuple[dict[str, Any], np.ndarray | None, dict[str, np.ndarray]]:
    """Returns results, scores and curves under one pooling."""
    # Every key is there, whatever is evaluated.
    keys = ("num_pairs", "num_genuine", "num_impostor", "eer", "eer_threshold", "eer_ci95", "auc", "tar_at_far")
    results: dict[str, Any] = dict.fromkeys([*keys, "bootstrap", "calibration", "identification", "worst"])
    results["notes"] = []
    scores, curves = None, {}

    # Verification.
    if evaluated != "1:N":
        with _timed(seconds, "score"):
            pairs = score_protocol(templates, protocol, kept, arguments.fars, arguments.rule, normaliser)
        with _timed(seconds, "measure"):
            results.update(measure_verification(pairs.ranked, arguments.fars, arguments.rule))
            results["notes"] += notes_on_ties(pairs.ranked, results)
            results["worst"] = find_worst(protocol, pairs)
            curves.update(verification_curves(pairs.ranked))
        if arguments.bootstrap:
            with _timed(seconds, "intervals"):
                add_bootstrap(results, pairs, protocol, kept, subjects, arguments.bootstrap, arguments.seed)
        if thresholds is not None:
            errors = listed_errors(pairs, protocol, kept, subjects)
            results["transferred"] = describe_transferred(thresholds, errors, arguments.bootstrap, arguments.seed)
        if groups is not None:
            with _timed(seconds, "groups"):
                options = arguments.fars, arguments.rule, arguments.bootstrap, arguments.seed
                results["groups"] = groups.measure(pairs, kept, results["tar_at_far"], *options)
        if arguments.calibrate:
            with _timed(seconds, "calibrate"):
                results["calibration"] = asdict(calibrate(pairs.ranked.genuine, pairs.ranked.impostor))
        scores = pairs.scores

    # Identification.
    if evaluated != "1:1":
        with _timed(seconds, "identify"):
            results["identification"], more = measure_identification(templates, protocol, kept)
        curves.update(more)
    return results, scores, curves


def _describe_protocols(
    arguments: argparse.Namespace, poolings: list[Pooling], measured: list[dict[str, Any]], evaluated: str
) -> list[dict[str, Any]]:
    """Returns the entry `protocols` of results.json: empty unless all were asked for."""
    keys = ("eer", "auc", "tar_at_far", "identification")
    return [
        {"protocol": _describe_protocol(arguments, pooling, evaluated), **{key: found[key] for key in keys}}
        for pooling, found in zip(poolings, measured, strict=True)
        if arguments.all_protocols
    ]


def _describe_protocol(arguments: argparse.Namespace, pooling: Pooling, evaluated: str) -> dict[str, Any]:
    like = arguments.protocol_like if arguments.protocol_like and PRESETS[arguments.protocol_like] == pooling else None
    target = TARGETS[arguments.target].name
    return {
        "text": f"{target} {'1:1 and 1:N' if evaluated == 'both' else evaluated}; {pooling.text}; "
        f"{rule_text(arguments.rule)}",
        "name": pooling.name,
        "keep_norm": pooling.keep_norm,
        "weight_by_detection_score": pooling.weight_by_detection_score,
        "flip_augment": pooling.flip_augment,
        "normalize_media": pooling.normalize_media,
        "weight_by_quality": pooling.weight_by_quality,
        "like": like,
        "rule": arguments.rule,
        "evaluated": evaluated,
    }


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
