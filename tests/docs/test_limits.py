"""SECURITY.md and docs/reliability.md state limits: each is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_prep.pairs import agedb
from data_prep.sources import image_lists, table_sources, tar_members
from evaluation.groups import group_file
from evaluation.ijb import text_files
from evaluation.protocols import mat_lists
from facekd.checkpoints import torch_pickle
from facekd.checkpoints.run_folder import CheckpointConfig
from facekd.commands import yaml_files
from facekd.data.pair_packs import npz_file
from facekd.data.recordio import idx_file
from facekd.embedder.onnx_models import embedder
from facekd.embedder.onnx_models import file as onnx_file
from facekd.faces import image_inputs
from facekd.files import array_file, npy_files
from facekd.images import announced_size, jpeg
from facekd.importing import python_config
from facekd.results import contradictions
from facekd.utils import bounded_pickle, foreign, text_arrays
from facekd.utils.processes import apart, children
from tests.fuzz import kept
from tests.fuzz import run as fuzz
from tests.fuzz.target import Target
from tests.fuzz.targets.all_targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

SECURITY = [
    f"an index line has {idx_file.MAX_LINE} bytes",
    f"a tar member with a name or header of over {tar_members.MAX_EXTENDED_HEADER // KIB} KiB is refused",
    f"images of up to 2^{announced_size.ALWAYS_READ_PIXELS.bit_length() - 1} pixels",
    f"if they have a byte for each {announced_size.PIXELS_PER_BYTE:,} pixels",
    f"none above 2^{announced_size.MAX_PIXELS.bit_length() - 1} or `{announced_size.VARIABLE}`",
    f"of {jpeg.MAX_SCANS} scans at most",
    "the values of a PGM or PPM go up to {} or {:,}".format(*announced_size.PNM_LARGEST),
    f"numbers of {WORDS[bounded_pickle.LONGEST_NUMBER]} bytes",
    f"arrays of {foreign.MAX_DIMENSIONS} dimensions",
    f"to at most {npy_files.FREE_UNPACKED_BYTES // MIB} MiB and {npy_files.MAX_RATIO_OF_ARRAYS} times its size "
    f"({npz_file.MAX_UNPACKED_RATIO} times for a pack of pairs)",
    f"{apart.MEGABYTES // KIB} GiB of memory, {apart.SECONDS} s of processor time",
    f"JSON of at most {apart.PRINTED // MIB} MiB and {WORDS[apart.PRINTED_BY_SIZE]} times the files' bytes",
    f"at most {mat_lists.MOST_VALUES:,} values a file of lists, {agedb.MOST_PAIRS:,} pairs of AgeDB",
    f"{apart.MEGABYTES // KIB} GiB of memory and {WORDS[apart.MEMORY_BY_SIZE]} times the files' size, "
    f"{apart.SECONDS} s and one for each {apart.BYTES_A_SECOND // 10**6} MB",
    f"values of {table_sources.SMALL_TABLE // MIB} MiB and {WORDS[table_sources.MOST_TIMES]} times its bytes",
    f"a pickle of {torch_pickle.LARGEST_PICKLE // MIB} MiB, {torch_pickle.DEEPEST} levels deep",
    f"tensors with at most {torch_pickle.LARGEST_TENSORS} times the file's bytes and "
    f"{torch_pickle.FREE_TENSOR_BYTES // MIB} MiB",
    f"{(onnx_file.MOST_BYTES + 1) // GIB} GiB, {onnx_file.MOST_FIELDS:,} fields",
    f"{onnx_file.MOST_NODES:,} nodes and, with functions written out, {WORDS[onnx_file.MOST_TIMES]} times the file's "
    f"bytes and {onnx_file.SMALL // MIB} MiB",
    f"at most {WORDS[onnx_file.MOST_TIMES]} times what those files hold and {onnx_file.SMALL // MIB} MiB",
    f"inputs of up to 2^{embedder.MOST_VALUES.bit_length() - 1} values",
    f"as `--labels-from`, keys of {image_lists.MAX_DIGITS} digits",
    f"a JSON header of {array_file.MAX_HEADER_BYTES // MIB} MiB",
    f"{foreign.MAX_DIMENSIONS} dimensions at most",
    f"{python_config.MAX_BYTES // KIB} KiB; values that are written out, arithmetic up to 1e15, numbers up to "
    f"2^{python_config.LARGEST_WRITTEN.bit_length() - 1}",
    f"{yaml_files.MAX_BYTES // KIB} KiB, {yaml_files.MAX_VALUES:,} values with those that aliases repeat, "
    f"{yaml_files.MAX_DEPTH} levels, numbers of {yaml_files.MAX_DIGITS} digits",
    f"more than {contradictions.MAX_GROUPS} groups of an attribute",
    f"groups have {group_file.MAX_ATTRIBUTES} attributes at most",
    f"a path or person of {image_inputs.LONGEST_PATH:,} characters, one of IJB of {text_files.MAX_NAME} bytes",
    f"at most {text_arrays.MAX_RATIO} times what the names take by themselves (each counted as "
    f"{text_arrays.SHORTEST_COUNTED} bytes at least) and {text_arrays.FREE_BYTES // MIB} MiB",
    f"an input of {Target.max_len // KIB} KB that takes {Target.megabytes} MB or {fuzz.SECONDS_AN_INPUT} s",
]
RELIABILITY = [
    f"since its last checkpoint ({CheckpointConfig.every_minutes:g} minutes by default)",
    f"An input may take {Target.megabytes} MB more than the process had",
    f"and {fuzz.SECONDS_AN_INPUT} s of the processor",
    f"waits for {WORDS[fuzz.SECONDS_BY_THE_CLOCK // 60]} minutes, is a fault",
    f"`make fuzz` has {len(TARGETS)} targets",
    f"({kept.LONGEST // KIB} KB each, {kept.MOST_BYTES // 1000} KB a target)",
]


@pytest.mark.parametrize(("page", "phrases"), [("SECURITY.md", SECURITY), ("docs/reliability.md", RELIABILITY)])
def test_every_limit_is_that_of_the_code(page: str, phrases: list[str]) -> None:
    text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
    assert not [phrase for phrase in phrases if phrase not in text]


def test_how_long_processes_wait_for_each_other_is_what_the_page_says() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    assert "after a minute it is said, after half an hour (`FACEKD_SECONDS_UNTIL_GIVEN_UP`) the command ends" in text
    assert (children.SECONDS_UNTIL_SAID, children.SECONDS_UNTIL_GIVEN_UP) == (60, 1800)
    assert python_config.LARGEST_NUMBER == 1e15
