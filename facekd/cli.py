"""Runs the `facekd` command: finds the verb that was typed and imports it, and nothing else.

This is the only file that uses facekd, evaluation and data_prep together.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap

from facekd import __version__
from facekd.api.validators import make_validators
from facekd.commands.completion import find_verb, is_completing
from facekd.commands.suggestions import nearest
from facekd.errors import FacekdError, run_verb
from facekd.utils.environment import OPENCV_LIMITS, opencv_limit
from facekd.utils.processes.children import end_process_of_several
from facekd.utils.requirements import installed_version

# By job: verb -> (the module whose `main(argv)` runs it, what it does).
MENU: dict[str, dict[str, tuple[str, str]]] = {
    "Start here": {
        "quickstart": ("facekd.experiments.quickstart", "the whole method on generated faces, on a CPU"),
        "pipeline sh-kd": ("facekd.experiments.sh_kd", "student, teacher and new student of the paper"),
        "study": ("facekd.experiments.study", "compare training methods over seeds: a report"),
        "doctor": ("facekd.commands.doctor", "what this machine has, and what is missing"),
        "configs": ("facekd.commands.print_configs", "the example configurations: list, or print one"),
    },
    "Data": {
        "data align": ("data_prep.align_faces", "photographs -> aligned face crops"),
        "data pack": ("data_prep.pack_records", "folders of crops, or an .lst -> .rec"),
        "data unpack": ("data_prep.unpack_records", ".rec -> folders of images"),
        "data inspect": ("data_prep.inspect_records", "what a .rec holds, and what is wrong with it"),
        "data clean": ("data_prep.clean_records", "copy a .rec without what inspect found"),
        "data convert": ("data_prep.convert_records", "merge, split, shuffle, re-encode; tar files"),
        "data cluster": ("data_prep.cluster_faces", "images of nobody known -> people: a .rec"),
        "data index": ("data_prep.index_records", "write the missing .idx of a .rec"),
        "data make-pairs": ("data_prep.make_pair_set", "aligned faces -> a verification pack (.bin)"),
        "data make-ijb": ("data_prep.make_ijb_layout", "images of people -> the layout of IJB-C"),
        "data make-protocol": ("data_prep.make_protocol_layout", "people -> SurvFace, TinyFace, MegaFace ..."),
        "data synthesize": ("data_prep.synthesize_faces", "generate faces: .rec and verification pack"),
        "data synthesize-classification": (
            "data_prep.synthesize_classification",
            "generate a small classification set",
        ),
    },
    "Train and distil": {
        "train": ("facekd.training.train", "train a backbone with a margin classifier"),
        "distill": ("facekd.training.distill", "train a student from a teacher"),
        "cache-teacher": ("facekd.teacher.cache_teacher", "embed a training set once, to distil faster"),
        "rebuild-head": ("facekd.teacher.rebuild_head", "a classifier for a teacher that has none"),
        "train-quality": ("facekd.teacher.train_quality", "teach a model to tell poor images"),
        "drop-sub-centers": ("data_prep.drop_sub_centers", "keep one centre a class, list noisy images"),
        "import": ("facekd.importing.import_weights", "weights of other trainers -> a checkpoint"),
        "import-config": ("facekd.importing.import_config", "configs of other trainers -> a YAML file"),
    },
    "Use": {
        "embed": ("facekd.faces.embed_faces", "faces of photographs -> one file of embeddings"),
        "compare": ("facekd.faces.compare_faces", "two photographs: one person, or two?"),
        "search": ("facekd.faces.search_faces", "find people among embedded faces: a page"),
        "threshold": ("facekd.faces.show_threshold", "the threshold to deploy, and what it rests on"),
    },
    "Export and evaluate": {
        "export": ("facekd.export.export_onnx", "a checkpoint -> ONNX, checked against torch"),
        "models": ("evaluation.list_models", "public models: licence, what they take"),
        "describe": ("evaluation.describe_model", "what an ONNX file takes, found by trial"),
        "evaluate lfw": ("evaluation.evaluate_lfw", "verification packs (.bin): accuracy, TAR@FAR"),
        "evaluate ijbc": ("evaluation.evaluate_ijbc", "IJB-B, IJB-C or a set in their layout"),
        "evaluate folder": ("evaluation.evaluate_folder", "folders of faces: all pairs, or a search"),
        "evaluate robustness": ("evaluation.evaluate_robustness", "blur, JPEG, light, noise, masks: curves"),
        "evaluate protocol": ("evaluation.evaluate_protocol", "SurvFace, TinyFace, MegaFace, masked ..."),
        "evaluate classification": ("evaluation.evaluate_classification", "a classifier: top-1 and top-5"),
        "report": ("evaluation.compare_models", "the page of an evaluation or a training"),
    },
}
# Verbs that take `--plugin`: they build models or open them.
PLUGIN_VERBS = {
    "data cluster",
    *("train", "distill", "pipeline sh-kd", "study", "export", "cache-teacher", "rebuild-head", "drop-sub-centers"),
    "train-quality",
    "data inspect",
    *("embed", "compare", "search"),
    *("evaluate lfw", "evaluate ijbc", "evaluate folder", "evaluate robustness", "evaluate protocol"),
    "evaluate classification",
}
# The data verbs that the menu of all verbs explains; it only names the others.
FIRST_DATA = ("data align", "data pack", "data inspect")
VERBS: dict[str, tuple[str, str]] = {name: verb for verbs in MENU.values() for name, verb in verbs.items()}


def main(argv: list[str] | None = None) -> int:
    """Runs the verb that the first words of `argv` name (by default those typed); returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    # Before torch is imported: its threads spin while they wait for each other, and beside another program on the same
    # cores that made training many times slower. With a hundredth of the turns it loses little (docs/benchmarks.md).
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"
    # Workers that the command starts must not take modules from the working directory; Python heeds it from 3.11 on.
    if argv is None:
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    status = run_verb(lambda: _dispatch(arguments))
    if argv is None:
        end_process_of_several(status)
    return status


def _require_own_packages() -> None:
    """Refuses to run where another package has the name of one of the three that belong together.

    Raises:
        FacekdError: it says where the other one is.
    """
    root = Path(__file__).parent.parent
    for name in ("evaluation", "data_prep"):
        spec = find_spec(name)
        places = [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
        if (root / name).resolve() not in places:
            other = places[0] if places else spec.origin if spec else None
            remedy = "take its folder out of PYTHONPATH, or run facekd in another one" if other else "install it again"
            raise FacekdError(f"facekd's package `{name}` is {f'hidden by {other}' if other else 'missing'}: {remedy}")


def _require_opencv_limits() -> None:
    """Refuses settings at which OpenCV would end the process when a verb imports it.

    Raises:
        FacekdError: it names the environment variable.
    """
    for name in OPENCV_LIMITS:
        try:
            opencv_limit(name, 0)
        except ValueError as error:
            raise FacekdError(str(error)) from None


def _dispatch(arguments: list[str]) -> int:
    _require_own_packages()
    if is_completing():
        verb = find_verb(VERBS)
        return _load(verb)([]) if verb else 0
    # Print the menu or the version.
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_menu())
        return 0
    if arguments[0] == "--version":
        print(_versions())
        return 0

    # torch.distributed.launch adds the rank as an option, and sets it in the environment as well.
    if local_ranks := [word for word in arguments if re.fullmatch(r"--local[-_]rank(=.*)?", word)]:
        if "LOCAL_RANK" not in os.environ or "=" not in local_ranks[0]:
            raise FacekdError(
                f"{local_ranks[0]} is an option of torch.distributed.launch; facekd finds its rank in the environment: "
                "start it by `torchrun --nproc_per_node N -m facekd VERB ...`"
            )
        return _dispatch([word for word in arguments if word not in local_ranks])

    # Find the verb: it has two words or one.
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in VERBS:
            return _run(name, arguments[words:])

    # The first word of a group, or a mistyped verb.
    group = [verb for verb in VERBS if verb.startswith(f"{arguments[0]} ")]
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_group_menu(arguments[0], group))
        return 0
    asked = " ".join(arguments[: 2 if group else 1])
    close = nearest(asked, VERBS)
    hint = f"; did you mean `facekd {close}`?" if close else ""
    raise FacekdError(f"there is no `facekd {asked}`{hint} (`facekd --help` lists the verbs)")


def _run(name: str, words: list[str]) -> int:
    """Runs a verb; the end of a command by the code of a plug-in is an error."""
    try:
        return _load(name)(_without_plugins(name, words))
    except SystemExit as stop:
        if plugins := sys.modules.get("facekd.plugins"):
            plugins.refuse_exit(stop)
        raise


def _without_plugins(verb: str, words: list[str]) -> list[str]:
    """Loads the plug-ins that the words name, for a verb that builds or opens models; returns the other words."""
    if verb not in PLUGIN_VERBS or {"-h", "--help"} & {*words}:
        return words
    from facekd.plugins import take_plugins  # here, because most verbs take none

    return take_plugins(words)


def _load(name: str) -> Callable[[list[str]], int]:
    _require_opencv_limits()
    verb = import_module(VERBS[name][0]).main
    if name in ("train", "distill"):
        return partial(verb, make_validators=make_validators)
    return partial(verb, parse_evaluation=_parse_evaluation) if name == "study" else verb


def _parse_evaluation(verb: str, words: list[str]) -> object:
    # A study does not import the benchmarks either: the verb that evaluates its runs checks their options.
    return import_module(f"evaluation.evaluate_{verb}").parse(words)


def _versions() -> str:
    """Returns facekd's version with those that results depend on, read without importing the packages."""
    names = ("torch", "torchvision", "numpy", "opencv-python-headless", "onnxruntime", "onnx")
    others = [f"Python {platform.python_version()}", *(f"{name} {installed_version(name) or '-'}" for name in names)]
    return f"facekd {__version__} ({', '.join(others)})"


def _menu() -> str:
    lines = ["usage: facekd VERB ...     `facekd VERB --help` explains a verb, with an example"]
    for job, verbs in MENU.items():
        # A long group has a menu of its own, so that this one fits a screen.
        others = [verb for verb in verbs if verb.startswith("data ") and verb not in FIRST_DATA]
        lines += ["", job, *_rows(verb for verb in verbs if verb not in others)]
        if others:
            also = f"also {', '.join(verb.removeprefix('data ') for verb in others)}: see `facekd data`"
            lines += wrap(also, 78, initial_indent="  data ", subsequent_indent="       ", break_on_hyphens=False)
    return "\n".join(
        [
            *lines,
            "Try first: `facekd quickstart` (needs no data); then `facekd data pack --help`.",
        ]
    )


def _group_menu(word: str, verbs: list[str]) -> str:
    title = f"usage: facekd {word} VERB ..."
    return "\n".join([title, "", *_rows(verbs), "", f"`facekd {word} VERB --help` explains a verb, with an example."])


def _rows(verbs: Iterable[str]) -> list[str]:
    width = max(map(len, VERBS))
    return [f"  {verb:<{width}}  {VERBS[verb][1]}" for verb in verbs]
