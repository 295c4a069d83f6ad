"""Verb `facekd data make-pairs`: makes a verification pack from aligned faces and a list of pairs, or a draw."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.pairs.pair_list import PairList
from data_prep.pairs.published_lists import LAYOUTS, read_pair_list, subject_of
from data_prep.pairs.sampling import all_pairs, sample_pairs
from data_prep.photographs.photos import find_photos
from data_prep.sources.encoded_images import prepare_image
from data_prep.sources.image_lists import check_name, list_folder
from facekd.commands.command_line import IMAGE_SIDE, JPEG_QUALITY, SEED, THREADS, CommandParser, whole_number
from facekd.commands.places import claimed_files
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack, write_pair_pack
from facekd.data.pair_packs.people import (
    contradicted_labels,
    count_people,
    describe_contradiction,
    warn_of_few_people,
)
from facekd.errors import DataError, ImageError, run_verb
from facekd.files.writing import atomic_open_together
from facekd.images.decoding import quiet_decoders
from facekd.images.frames import FirstImageNote
from facekd.images.image_files import is_image_name
from facekd.utils.foreign import shown
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.progress import track
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import agreeing, counted
from facekd.verification import balanced_folds, fold_indices
from facekd.verification.kfold import USUAL_FOLDS, describe_fold, one_kind_folds

MAX_CONTRADICTED = 0.5  # share of either kind of pair up to which labels, not names, are taken for wrong


@dataclass(frozen=True)
class ChosenPairs:
    """Holds the pairs that go into a pack.

    Attributes:
        names: files of the two images of each pair, relative to the folder.
        is_same: bool (N,).
        fold_of: int64 (N,).
        subjects: (N, 2) people, or None if the names do not say.
        num_dropped: pairs left out because an image is missing or unusable.
    """

    names: list[tuple[str, str]]
    is_same: np.ndarray
    fold_of: np.ndarray
    subjects: np.ndarray | None
    num_dropped: int = 0

    def without(self, bad: set[str]) -> ChosenPairs:
        """Returns the pairs that have none of these images, with their folds numbered without gaps."""
        keep = np.array([not (a in bad or b in bad) for a, b in self.names])
        return ChosenPairs(
            [pair for pair, kept in zip(self.names, keep, strict=True) if kept],
            self.is_same[keep],
            np.unique(self.fold_of[keep], return_inverse=True)[1].astype(np.int64),
            None if self.subjects is None else self.subjects[keep],
            self.num_dropped + int((~keep).sum()),
        )


def main(argv: list[str] | None = None) -> int:
    """Parses and makes a verification pack; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if (arguments.pairs is None) == (arguments.sample is None):
        parser.error("give --pairs LIST or --sample N, one of the two")
    if arguments.output.suffix not in (".bin", ".npz"):
        parser.error(f"{arguments.output}: the name should end in .bin (InsightFace's pickle) or .npz (facekd's own)")
    names_path = arguments.output.with_name(f"{arguments.output.stem}_pairs.txt")
    files, sources = [arguments.output, names_path], [arguments.folder, arguments.pairs]
    with claimed_files([], sources, "facekd data make-pairs", [], replaceable=files):
        return _make_pair_set(arguments, names_path)


def _make_pair_set(arguments: argparse.Namespace, names_path: Path) -> int:
    """Chooses the pairs, reads their images and writes the pack."""
    if arguments.output.exists() and not arguments.force:
        raise DataError(f"{arguments.output} is there already; choose another name, or replace it by --force")
    quiet_decoders()

    # Choose the pairs, then leave out those whose images cannot be used.
    chosen = _sample(arguments) if arguments.pairs is None else _listed(arguments)
    names = sorted({name for pair in chosen.names for name in pair})
    if chosen.subjects is not None:  # there will be a list of them
        for name in names:
            check_name(name)
    if not (arguments.force or arguments.output.exists()):
        _refuse_list_of_others(names_path, chosen)
    images, bad = _read_images(arguments, names)
    pairs = chosen.without(bad)
    if pairs.is_same.all() or not pairs.is_same.any():
        kind = "genuine" if pairs.is_same.any() else "impostor"
        total = len(chosen.names) + chosen.num_dropped
        raise DataError(f"only {kind} pairs would be left of {total:,}; both kinds are needed")

    # Write the pack, and beside it who is compared.
    encoded = [images[name] for pair in pairs.names for name in pair]
    with atomic_open_together(arguments.output, {names_path: pairs.subjects is not None}) as streams:
        if arguments.output.suffix == ".npz":
            pack = PairPack(encoded, pairs.is_same, pairs.subjects, pairs.fold_of)
            write_native_pair_pack(streams[arguments.output], pack)
        else:
            write_pair_pack(streams[arguments.output], encoded, pairs.is_same)
        if pairs.subjects is not None:
            streams[names_path].write(_names_text(pairs, pairs.subjects).encode("utf-8", "backslashreplace"))
    _report(arguments.output, names_path, pairs)
    return 0


def _refuse_list_of_others(names_path: Path, chosen: ChosenPairs) -> None:
    """Refuses to replace a list that has lines which this command does not write.

    A run that was stopped when its list had just got its name has left one without its pack, of chosen pairs alone.
    """
    if chosen.subjects is None or not names_path.exists():
        return
    lines = {*_names_text(chosen, chosen.subjects).encode("utf-8", "backslashreplace").splitlines()}
    if not (names_path.is_file() and lines.issuperset(names_path.read_bytes().splitlines())):
        raise DataError(
            f"{names_path}: is there already, and the list of who is compared would replace it; choose another name, "
            "or replace it by --force"
        )


def _sample(arguments: argparse.Namespace) -> ChosenPairs:
    listed = list_folder(arguments.folder)
    labels = np.array([image.label for image in listed])
    if arguments.sample == "all":
        numbers, is_same, fold_of = all_pairs(labels, arguments.folds, arguments.seed)
    else:
        numbers, is_same, fold_of = sample_pairs(labels, arguments.sample, arguments.folds, arguments.seed)
    names = [(listed[a].name, listed[b].name) for a, b in numbers.tolist()]
    return ChosenPairs(names, is_same, fold_of, np.array([[subject_of(name) for name in pair] for pair in names]))


def _listed(arguments: argparse.Namespace) -> ChosenPairs:
    """Returns the pairs of a list whose images are in the folder.

    Raises:
        DataError: images are missing, and `--on-missing drop` was not given or would leave none.
    """
    # Read the list and find its images in the folder.
    pairs = read_pair_list(arguments.pairs, arguments.layout)
    print(f"{arguments.pairs}: {counted(len(pairs.names), 'pair')}, layout {pairs.layout}", file=sys.stderr)
    find = _Finder(arguments.folder)
    found = [(find(a), find(b)) for a, b in pairs.names]
    lacking = [number for number, pair in enumerate(found) if None in pair]
    if lacking and (arguments.on_missing == "fail" or len(lacking) == len(found)):
        names = sorted({name for number in lacking for name in pairs.names[number] if find(name) is None})
        raise DataError(
            f"{len(lacking):,} of {counted(len(found), 'pair')} of {arguments.pairs} "
            f"{agreeing(len(lacking), 'names', 'name')} images that {arguments.folder} does not hold: "
            f"{', '.join(names[:3])}{f' and {len(names) - 3:,} more' if len(names) > 3 else ''}; --on-missing drop "
            "leaves such pairs out"
        )

    if find.unclear:
        name, taken = min(find.unclear.items())
        print(
            f"warning: {arguments.folder}: names of the list that fit several files, which differ in their suffix: "
            f"{len(find.unclear):,}; the first file is taken, {shown(taken)} for {shown(name)}",
            file=sys.stderr,
        )

    # Put the pairs in the order of their folds.
    subjects = _subjects(pairs, arguments.pairs)
    fold_of = pairs.fold_of if pairs.fold_of is not None else _fold(pairs.is_same, arguments.folds)
    order = np.argsort(fold_of, kind="stable")
    kept = np.array([number for number in order.tolist() if None not in found[number]])
    names = [(str(found[number][0]), str(found[number][1])) for number in kept.tolist()]
    subjects = None if subjects is None else subjects[kept]
    return ChosenPairs(names, pairs.is_same[kept], fold_of[kept], subjects, len(lacking))


def _fold(is_same: np.ndarray, num_folds: int) -> np.ndarray:
    """Returns the fold of each pair: contiguous ones if each then holds both kinds, else a share of each kind."""
    contiguous = fold_indices(len(is_same), num_folds)
    if not one_kind_folds(is_same, contiguous).size:
        return contiguous
    fold_of = balanced_folds(is_same, num_folds)
    print("note: the list holds genuine and impostor pairs apart; every fold is given a share of both", file=sys.stderr)
    return fold_of


def _subjects(pairs: PairList, where: Path) -> np.ndarray | None:
    """Returns who is on the images, if the names say so; a few labels that contradict the names are reported."""
    subjects = pairs.subjects or [(subject_of(a), subject_of(b)) for a, b in pairs.names]
    if any(None in who for who in subjects):
        return None
    people = text_array([str(person) for who in subjects for person in who], where).reshape(-1, 2)
    odd = contradicted_labels(people, pairs.is_same)
    if not odd.size:
        return people
    # Names that say who it is are right about most pairs of either kind; folders of anything else are not.
    is_odd = np.isin(np.arange(len(people)), odd)
    if max(is_odd[pairs.is_same == kind].mean() for kind in np.unique(pairs.is_same)) < MAX_CONTRADICTED:
        print(
            f"warning: {where}: {odd.size:,} of {counted(len(people), 'label')} "
            f"{agreeing(odd.size, 'contradicts', 'contradict')} the names of the images: the first, "
            f"{describe_contradiction(people, pairs.is_same, int(odd[0]))} "
            f"({' and '.join(map(shown, pairs.names[odd[0]]))}); the labels are kept; correct the list, or expect "
            "wrong error rates",
            file=sys.stderr,
        )
    return None


class _Finder:
    """Finds files of a folder by the names that lists use: with or without folders, with or without suffix."""

    def __init__(self, folder: Path) -> None:
        files = find_photos(folder)
        self._sharing = {stem for stem, count in Counter(map(_stem, files)).items() if count > 1}
        self.unclear: dict[str, str] = {}  # names that fit several files, with the one taken
        self._whole = {_stem(name): name for name in reversed(files)} | {name: name for name in files}
        counts = Counter(PurePosixPath(name).stem for name in files)
        self._last = {PurePosixPath(name).stem: name for name in files if counts[PurePosixPath(name).stem] == 1}

    def __call__(self, name: str) -> str | None:
        for key in (name, _stem(name) if is_image_name(name) else name):
            if key in self._whole:
                found = self._whole[key]
                if found != name and _stem(found) in self._sharing:
                    self.unclear[name] = found
                return found
        last = PurePosixPath(name).name
        found = self._last.get(_stem(last) if is_image_name(last) else last)
        return found if found is not None and _may_be(name, found) else None


def _may_be(name: str, file: str) -> bool:
    """Returns whether a file of the same name as a listed image may be it: 1.jpg of Bob is not 1.jpg of Ada."""
    listed, there = PurePosixPath(name).parts[:-1], PurePosixPath(file).parts[:-1]
    count = min(len(listed), len(there))
    if listed[len(listed) - count :] == there[len(there) - count :]:
        return True
    # The folders differ; but a name such as Ada_0001 says itself that the file lies in the right one.
    return subject_of(PurePosixPath(file).name) == there[0]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _read_images(arguments: argparse.Namespace, names: list[str]) -> tuple[dict[str, bytes], set[str]]:
    note = FirstImageNote()

    def prepare(name: str) -> bytes:
        return prepare_image(arguments.folder / name, arguments.size, arguments.resize, arguments.quality, note)

    images: dict[str, bytes] = {}
    bad: set[str] = set()
    with in_order(prepare, names, arguments.workers) as results:
        for name, result in zip(names, track(results, "reading images", len(names)), strict=True):
            try:
                images[name] = result.result()
            except ImageError as error:
                if arguments.on_missing == "fail":
                    raise
                bad.add(name)
                print(f"dropped: {error}", file=sys.stderr)
    return images, bad


def _names_text(pairs: ChosenPairs, subjects: np.ndarray) -> str:
    """Returns the list of who is compared: PERSON/IMAGE, whatever folders the files lie in."""
    lines = []
    for pair, who, same in zip(pairs.names, subjects.tolist(), pairs.is_same.tolist(), strict=True):
        paths = [f"{person}/{_below(name, person)}" for name, person in zip(pair, who, strict=True)]
        lines.append(f"{paths[0]}\t{paths[1]}\t{int(same)}\n")
    return "".join(lines).encode("utf-8", "backslashreplace").decode()


def _report(output: Path, names_path: Path, pairs: ChosenPairs) -> None:
    """Prints what the pack and the list beside it hold."""
    names, is_same, fold_of, subjects = pairs.names, pairs.is_same, pairs.fold_of, pairs.subjects
    num_folds, num_genuine = int(fold_of.max()) + 1, int(is_same.sum())
    num_impostor = len(names) - num_genuine
    people = None if subjects is None else count_people(subjects, is_same, fold_of)
    of_people, of_one, of_two = "", "", ""
    if people is not None:
        of_people = f" of {counted(people.num_people, 'person')}"
        of_one = f" of {counted(people.num_genuine_people, 'person')}"
        of_two = f" of {counted(people.num_impostor_people_pairs, 'pair of people')}"
    dropped = f", {pairs.num_dropped:,} dropped" if pairs.num_dropped else ""
    print(
        f"{output}: {counted(len(names), 'pair')}{of_people}, {num_genuine:,} genuine{of_one}, "
        f"{num_impostor:,} impostor{of_two}, {counted(num_folds, 'fold')}{dropped}"
    )

    # What makes the pack doubtful: few people, and folds of one kind or of sizes that a .bin cannot say.
    for warning in [] if people is None else warn_of_few_people(people, num_genuine, num_impostor):
        print(f"warning: {warning}", file=sys.stderr)
    sizes = np.bincount(fold_of)
    if output.suffix == ".bin" and sizes.min() != sizes.max():
        print("note: the folds differ in size, which a .bin cannot say; an .npz keeps them")
    elif num_folds not in (1, USUAL_FOLDS):
        print(f"note: `facekd evaluate lfw` takes {USUAL_FOLDS} folds unless told; these by --folds {num_folds}")
    if (one_kind := one_kind_folds(is_same, fold_of)).size:
        print(
            f"warning: {one_kind.size} of {counted(num_folds, 'fold')} {agreeing(one_kind.size, 'holds', 'hold')} one "
            f"kind of pair only, the first {describe_fold(is_same, fold_of, int(one_kind[0]))}; `facekd evaluate lfw` "
            "balances them",
            file=sys.stderr,
        )
    if subjects is None:
        print(
            "note: the names do not say who is on the images, or not what the labels say, so no list of subjects is "
            "written"
        )
    else:
        print(f"{names_path}: who they are, for `facekd evaluate lfw --names`")


def _below(name: str, person: str) -> str:
    return name.removeprefix(f"{person}/").replace("/", "_")


def _num_pairs(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return whole_number(2, 10**9)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or `all`") from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data make-pairs",
        description="Makes a verification pack from aligned faces: .bin as InsightFace has them, or facekd's own .npz.",
        example="examples:\n"
        "  facekd data make-pairs lfw_aligned lfw.bin --pairs pairs.txt\n"
        "  facekd data make-pairs cfp_aligned cfp_fp.npz --pairs cfp-dataset/Protocol --layout cfp-fp\n"
        "  facekd data make-pairs aligned mine.bin --sample 6000          # folds without common people\n\n"
        "Lists: LFW's pairs.txt, CFP's Protocol folder, CALFW's and CPLFW's two lines a pair, AgeDB's protocol\n"
        "(.mat), and lines `image image label`.\n\n"
        "writes OUT, and beside it NAME_pairs.txt, who is compared, for `facekd evaluate lfw --names`",
    )
    add = parser.add_argument
    # The faces, and the pack to write.
    add("folder", type=Path, metavar="FOLDER", help="aligned faces, as `facekd data align` leaves them")
    add("output", type=Path, metavar="OUT", help="the pack to write, .bin or .npz")
    # Which pairs: listed or drawn, and in which folds.
    add("--pairs", type=Path, metavar="LIST", help="the list of pairs, CFP's folder Protocol, or AgeDB's .mat")
    add("--layout", choices=LAYOUTS, help="layout of the list (default: found out; for CFP cfp-fp)")
    add(
        "--sample",
        type=_num_pairs,
        metavar="N",
        help="draw N pairs instead, half genuine, people evenly; `all`: every pair, in folds that share people",
    )
    add(
        "--folds",
        type=whole_number(2, 10_000),
        default=USUAL_FOLDS,
        metavar="K",
        help=f"folds, unless the list has its own (default: {USUAL_FOLDS})",
    )
    add("--seed", type=SEED, default=0, help="random seed of the draw (default: 0)")
    add(
        "--on-missing",
        choices=("fail", "drop"),
        default="fail",
        help="if images are missing or broken: stop, or leave out their pairs (default: fail)",
    )
    # What the images in the pack look like.
    add("--size", type=IMAGE_SIDE, default=112, metavar="PX", help="side of the images (default: 112)")
    add("--resize", action="store_true", help="scale images of another size (default: refuse them)")
    add("--quality", type=JPEG_QUALITY, default=95, metavar="Q", help="JPEG quality of scaled images (default: 95)")
    # How it is written.
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads (default: all cores)")
    add("--force", action="store_true", help="replace an existing pack")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
