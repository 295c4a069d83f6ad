"""Feeds each reader of foreign files its seeds and damaged copies of them; `make fuzz` goes on for as long as told."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.fuzz.kept import kept_inputs
from tests.fuzz.target import Target, TargetRunner, mutations
from tests.fuzz.targets.all_targets import TARGETS

ROOT = Path(__file__).parents[2]
# What turns bytes of a file into values.
READING = re.compile(
    r"\b(read_json|read_text_file|read_npy|read_open_npy|read_npz|unpack_npz|read_array|np\.memmap|np\.load|torch\.load"
    r"|run_apart|open_arrays|json\.loads?|frombuffer|struct\.unpack\w*|\w*Unpickler|safe_open|imdecode|Image\.open"
    r"|csv\.\w*[rR]eader|tarfile\.open|ZipFile|FromString)\("
)
# Modules that no target names, and why none needs to.
REACHED = {
    "data_prep.sources.tar_members": "`tar_sums` reads by it",
    "data_prep.sources.webdataset": "`tar_sums` reads by it",
    "data_prep.synthesize_classification": "compares an object with its own settings, and takes nothing from it",
    "data_prep.synthesize_faces": "checks the types of a summary by `find_fault`; its parts are read as `cache` is",
    "data_prep.unpack_records": "compares an object with its own job, and takes nothing from it",
    "evaluation.ijb.face_embeddings": "compares the header of a kept array with its own, and rows with their checksums",
    "evaluation.list_models": "reads the catalogue that comes with facekd",
    "evaluation.result_files": "looks for the format of results, which `results` reads",
    "evaluation.sets.folder_embeddings": "asks whether arrays are there that `qualities` reads",
    "facekd.checkpoints.file_kinds": "`checkpoint` and `state_dict` read by it",
    "facekd.checkpoints.torch_files": "`checkpoint` and `state_dict` read by it",
    "facekd.data.pair_packs.unpickler": "`pairs_bin` reads by it",
    "facekd.data.recordio.headers": "`rec` reads by it",
    "facekd.data.recordio.index": "`rec` and `idx` read by it",
    "facekd.embedder.known_models": "reads the catalogue that comes with facekd",
    "facekd.experiments.quickstart": "reads results that it has just had written",
    "facekd.experiments.studies.results": "reads results, as `results` does",
    "facekd.export.precision": "reads the model that it has just exported",
    "facekd.images.augmentation": "decodes what it has just encoded",
    "facekd.images.heif": "`image` decodes by it",
    "facekd.importing.import_config": "`python_config` and `command_line` call what it calls",
    "facekd.pages.pdf": "hands the text of a page to the browser, which parses it",
    "facekd.training.logbook.wandb_run": "parses settings by configparser, to refuse what they hold",
    "facekd.utils.bounded_pickle": "`pairs_bin`, `cifar` and `checkpoint` read by it",
    "facekd.utils.processes.apart": "`mat` and `table` read by it",
}


def test_every_reader_has_a_target_or_a_reason() -> None:
    """A module that reads bytes of a file is imported by the targets, or says above why it is not."""
    named = set()
    for file in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    readers = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for folder in ("facekd", "evaluation", "data_prep")
        for file in (ROOT / folder).rglob("*.py")
        if READING.search(file.read_text())
    }
    assert sorted(readers - named) == sorted(REACHED), "give a new reader a target, or a reason in REACHED"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_end_in_a_sentence(target: Target) -> None:
    seeds, refused = target.seeds(), target.refused()
    with TargetRunner(target) as runner:
        for seed in seeds:
            assert runner.feed(seed), "a seed is refused: the target tests nothing"
            assert not target.finds or runner.found is not None, "a seed is read as nothing: the target tests nothing"
        assert not any(map(runner.feed, refused)), "what must be refused is read"
        kept = kept_inputs(target.name)[: target.copies]
        for content in (*kept, *mutations([*seeds, *refused], target.copies)):
            runner.feed(content)
