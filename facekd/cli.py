"""The `facekd` command: one menu over the verbs, each imported only when it is asked for.

The only file that looks at facekd, evaluation and data_prep together.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from facekd import __version__
from facekd.errors import FacekdError, run_verb

if TYPE_CHECKING:
    from facekd.training.config import TrainConfig
    from facekd.training.validation import HeadValidator, Validator

# What the user types -> the module whose `main(argv)` does it, and what it does.
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": ("facekd.experiments.quickstart", "the whole story on generated faces, in minutes on a CPU"),
    "train": ("facekd.training.train", "fit a backbone with a margin classifier"),
    "distill": ("facekd.training.distill", "a student learns from a teacher through a shared classifier"),
    "pipeline sh-kd": ("facekd.experiments.sh_kd", "a student, a teacher under its frozen classifier, a new student"),
    "study": ("facekd.experiments.study", "train methods x seeds under one protocol, and report what they are worth"),
    "export": ("facekd.export.export_onnx", "write a trained backbone as ONNX, checked against torch"),
    "import": ("facekd.checkpoints.import_insightface", "turn InsightFace's published weights into a checkpoint"),
    "cache-teacher": ("facekd.teacher.cache_teacher", "embed a training set once with a teacher, for distillation"),
    "rebuild-head": (
        "facekd.teacher.rebuild_head",
        "class centres from data, for a teacher published without its head",
    ),
    "evaluate classification": ("evaluation.evaluate_classification", "top-1 and top-5 of a classifier"),
    "evaluate lfw": ("evaluation.evaluate_lfw", "judge a model on LFW-style verification packs (.bin)"),
    "evaluate ijbc": ("evaluation.evaluate_ijbc", "judge a model on IJB-B, IJB-C, or any set in their layout"),
    "data align": ("data_prep.align_faces", "photographs -> aligned face crops"),
    "evaluate folder": ("evaluation.evaluate_folder", "judge a model on folders of faces: all pairs, or a search"),
    "report": ("evaluation.compare_models", "the report of one evaluation, or several models compared, with tests"),
    "data inspect": ("data_prep.inspect_records", "say what a pack of records is, and what is odd about it"),
    "data convert": ("data_prep.convert_records", "merge, split, shuffle, re-encode; from and to tars; import"),
    "data index": ("data_prep.index_records", "write the missing .idx of a .rec file"),
    "data pack": ("data_prep.pack_records", "image folders or .lst -> .rec"),
    "data clean": ("data_prep.clean_records", "a new pack without what lists say to drop"),
    "data unpack": ("data_prep.unpack_records", ".rec -> image folders"),
    "data make-ijb": (
        "data_prep.make_ijb_layout",
        "people's images, or drawn embeddings, in the layout of IJB-B / IJB-C",
    ),
    "data make-pairs": ("data_prep.make_pair_set", "aligned faces -> a verification pack"),
    "data synthesize": ("data_prep.synthesize_faces", "generate faces: training shards and a verification pack"),
    "data synthesize-classification": (
        "data_prep.synthesize_classification",
        "generate CIFAR's files or folders of images, to try classification out",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run the verb named by the first words of `argv` (the command line by default); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_verb(lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_menu())
        return 0
    if arguments[0] == "--version":
        print(f"facekd {__version__}")
        return 0
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in VERBS:
            return _load(name)(arguments[words:])
    group = {verb: VERBS[verb] for verb in VERBS if verb.startswith(f"{arguments[0]} ")}
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_menu(group))
        return 0
    asked = " ".join(arguments[: 2 if group else 1])
    close = difflib.get_close_matches(asked, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean `facekd {close[0]}`? " if close else ""
    raise FacekdError(f"there is no `facekd {asked}`; {hint}`facekd --help` lists the verbs")


def _load(name: str) -> Callable[[list[str]], int]:
    verb = import_module(VERBS[name][0]).main
    if name in ("train", "distill"):
        return partial(verb, make_validators=_make_validators)
    return partial(verb, parse_evaluation=_parse_evaluation) if name == "study" else verb


def _parse_evaluation(words: list[str]) -> object:
    # A study knows no benchmark either; the verb that evaluates its runs checks the options given for that.
    from evaluation.evaluate_lfw import parse

    return parse(words)


def _make_validators(config: TrainConfig) -> list[Validator | HeadValidator]:
    # Training knows no benchmark; here it is given those of the harness.
    from evaluation.validators import ClassificationValidator, PairSetValidator

    wanted = config.validation
    validators: list[Validator | HeadValidator] = [PairSetValidator(pack, flip=wanted.flip) for pack in wanted.packs]
    if wanted.classification != "none":
        validators.append(ClassificationValidator(config.data, wanted.classification))
    return validators


def _menu(verbs: dict[str, tuple[str, str]] = VERBS) -> str:
    width = max(map(len, verbs))
    lines = [f"  facekd {name:<{width}}  {what}" for name, (_, what) in verbs.items()]
    title = "facekd: face verification, trained, exported and judged"
    return "\n".join([title, "", *lines, "", "`facekd VERB --help` explains a verb, with an example."])
