"""Lists every verb of facekd as a command of seconds on tiny inputs, and says what its results are and when two agree.

    inputs = prepare_inputs(Path("/tmp/x/inputs"))               # tests/faults/inputs.py; once, about a minute
    command = COMMANDS["pack"]
    attempt = command.start_in(Path("/tmp/x/attempt"), inputs)   # an empty folder, with the inputs it may write to
    subprocess.run([sys.executable, *command.argv(inputs)], cwd=attempt, env=environment(attempt))
    differences(contents_of(attempt), contents_of(other))        # tests/faults/contents.py

Commands run in their attempt's folder and name their results relative to it, so that the paths they write down agree.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_MANY = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


@dataclass(frozen=True)
class Command:
    """Describes a facekd command whose results can be compared.

    Attributes:
        name: names it, in one word.
        words: words after `facekd`; `{in}` stands for the folder of the inputs, and results are below `out/`.
        done: results, below `out/`, that may be there only when all are complete.
        needs: inputs that are copied into the attempt's folder, because the command keeps something beside them.
        over: words of another command that has left its results below `out/` before this one begins; empty for none.
        spares: part of the paths of inputs without which it gets along: pictures on a page.
        processes: number of processes that run it together.
        expensive: whether it takes minutes, and is left out unless asked for.
    """

    name: str
    words: str
    done: tuple[str, ...]
    needs: tuple[str, ...] = ()
    over: str = ""
    spares: str = ""
    processes: int = 1
    expensive: bool = False

    def argv(self, inputs: Path) -> list[str]:
        """Returns the words after the interpreter's name."""
        launch = [*LAUNCH_MANY, str(self.processes)] if self.processes > 1 else []
        return [*launch, "-m", "facekd", *_filled_in(self.words, inputs)]

    def argv_before(self, inputs: Path) -> list[str]:
        """Returns the words of the command that has left its results before; see `over`."""
        return ["-m", "facekd", *_filled_in(self.over, inputs)]

    def start_in(self, folder: Path, inputs: Path) -> Path:
        """Makes the empty folder of an attempt and returns it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in self.needs:
            if (inputs / name).is_dir():
                shutil.copytree(inputs / name, folder / name)
            else:
                shutil.copy2(inputs / name, folder / name)
        return folder


def _filled_in(words: str, inputs: Path) -> list[str]:
    return [word.replace("{in}", str(inputs)) for word in words.split()]


def environment(attempt: Path, **more: str) -> dict[str, str]:
    """Returns the environment of a command: one thread, this checkout's facekd, caches of its own."""
    chosen = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(attempt / "cache")}
    return {**os.environ, **chosen, "MPLCONFIGDIR": str(attempt.parent / "matplotlib"), **more}


SMALL = (
    "--data.image_size 32 --data.workers 0 --device cpu --backbone.name mobilefacenet --backbone.width 0.125 "
    "--backbone.embedding_size 16 --head.scale 16 --head.margin_value 0.2 --schedule.lr 0.05 --images 72 "
    "--global_batch_size 12 --log_every_images 12 --checkpoint.every_images 24 --seed 7"
)
PEOPLE = "--images-per-identity 6 --size 32 --workers 0"
MEASURE = "--bootstrap 100 --seed 3"
# Distilled students learn from the run `teacher` among the inputs.
TAUGHT = f"--data.train {{in}}/faces {SMALL} --tensorboard false --teacher.model {{in}}/teacher"

TABLE = (
    Command("doctor", "doctor --json", ()),
    Command("configs", "configs configs/debug.yaml", ()),
    # Data: generated, packed, copied, read.
    Command(
        "synthesize",
        f"data synthesize --identities 8 {PEOPLE} --test-identities 20 --pairs 20 --output out",
        ("synthesis.json",),
    ),
    Command(
        "synthesize-folders",
        f"data synthesize --identities 8 {PEOPLE} --pairs 0 --layout folders --output out",
        ("synthesis.json",),
    ),
    Command(
        "synthesize-classification",
        "data synthesize-classification --layout cifar-10 --images-per-class 4 --test-images-per-class 2 --output out",
        (),
    ),
    Command(
        "synthesize-classification-folders",
        "data synthesize-classification --layout folders --classes 3 --images-per-class 4 --size 32 --output out",
        (),
    ),
    Command(
        "align",
        "data align {in}/photos out --landmarks {in}/landmarks.tsv --workers 1 --set-aside out/aside",
        ("align_report.json",),
    ),
    Command(
        "align-over",
        "data align {in}/photos out --landmarks {in}/landmarks.tsv --workers 1 --set-aside out/aside --force",
        ("align_report.json",),
        over="data align {in}/photos out --landmarks {in}/landmarks.tsv --workers 1 --set-aside out/aside",
    ),
    Command("pack", "data pack {in}/folders out --size 32 --workers 1", ("train.rec",)),
    Command("unpack", "data unpack {in}/faces out", ()),
    Command("index", "data index {in}/faces/train.rec --output out/train.idx", ("train.idx",)),
    Command("clean", "data clean {in}/faces out --apply {in}/drop.tsv", ("train.rec",)),
    Command("convert", "data convert {in}/faces out --shuffle --reencode 80 --workers 1", ("convert_report.json",)),
    Command("convert-shards", "data convert {in}/faces out --shards 3 --workers 1", ("convert_report.json",)),
    Command(
        "convert-tars", "data convert {in}/faces out --to webdataset --shards 2 --workers 1", ("convert_report.json",)
    ),
    Command(
        "cluster",
        "data cluster {in}/faces out --model {in}/model.onnx --min-size 2",
        ("cluster_report.json",),
    ),
    Command(
        "inspect",
        "data inspect {in}/faces --output out/sheet.png --report out/index.html --model {in}/model.onnx --check "
        "--against {in}/faces/test.bin --merge-cosine 0.95 --overlap-cosine 0.95 --workers 1 --threads 1",
        ("index.html",),
    ),
    Command(
        "make-pairs", "data make-pairs {in}/folders out/p.bin --sample 20 --folds 2 --size 32 --workers 1", ("p.bin",)
    ),
    Command(
        "make-pairs-npz",
        "data make-pairs {in}/folders out/p.npz --sample 20 --folds 2 --size 32 --workers 1",
        ("p.npz",),
    ),
    Command("make-ijb", "data make-ijb {in}/folders out --image-size 32 --workers 1", ("layout.json",)),
    Command("make-protocol", "data make-protocol ijbs {in}/folders out", ("layout.json",)),
    Command(
        "make-ijb-drawn",
        "data make-ijb --full-size --fraction 0.002 --embedding-size 8 out --workers 1",
        ("layout.json",),
    ),
    # Training.
    Command(
        "train",
        f"train --data.train {{in}}/faces {SMALL} --tensorboard true --validation.packs [{{in}}/faces/test.bin] "
        "--validation.every_images 24 --checkpoint.keep 2 --output out",
        (),
    ),
    Command(
        "train-sharded",
        f"train --data.train {{in}}/faces {SMALL} --tensorboard false --head.sharded true --checkpoint.keep 2 "
        "--output out",
        (),
        processes=2,
    ),
    Command("distill", f"distill {TAUGHT} --share 1 --loss.kl 1 --loss.embedding_l2 1 --output out", ()),
    Command(
        "distill-cached",
        f"distill {TAUGHT} --teacher.cache {{in}}/teacher.cache --loss.embedding_l2 1 --output out",
        (),
    ),
    Command(
        "cache-teacher", "cache-teacher {in}/teacher --data {in}/faces --output out/teacher.cache", ("teacher.cache",)
    ),
    Command("rebuild-head", "rebuild-head {in}/model.onnx --data {in}/faces --output out/head.pt", ("head.pt",)),
    Command(
        "rebuild-head-blend",
        "rebuild-head {in}/teacher --data {in}/faces --output out/head.pt --power 0.25 --blend 0.5",
        ("head.pt",),
    ),
    Command("train-quality", "train-quality {in}/teacher --data {in}/faces --output out/scored.pt", ("scored.pt",)),
    Command("drop-sub-centers", "drop-sub-centers {in}/centres --data {in}/faces --output out", ("report.json",)),
    Command("import", "import {in}/backbone.pth --output out/backbone.pt", ("backbone.pt",)),
    Command("import-config", "import-config {in}/arcface.py --output out/arcface.yaml", ("arcface.yaml",)),
    Command("export", "export {in}/teacher --output out/model.onnx --normalize", ("model.onnx",)),
    Command(
        "export-int8",
        "export {in}/teacher --output out/model.onnx --precision int8 --calibrate {in}/faces --calibration-images 32 "
        "--judge {in}/faces/test.bin --keep-anyway",
        ("model.onnx",),
    ),
    # Use.
    Command(
        "embed",
        "embed {in}/folders {in}/faces/train.rec {in}/faces/test.bin --model {in}/model.onnx --resize --batch-size 1 "
        "--workers 1 --threads 1 --output out/faces.npz",
        ("faces.npz",),
    ),
    Command(
        "compare-faces",
        "compare {in}/photos/0000000/00000.jpg {in}/photos/0000001/00000.jpg --model {in}/model.onnx --resize "
        "--threads 1 --thresholds {in}/folder-results --far 0.1 --output out/compare.json",
        ("compare.json",),
    ),
    Command(
        "search-faces",
        "search {in}/folders --gallery {in}/faces.npz --model {in}/model.onnx --resize --workers 1 --threads 1 "
        "--thresholds {in}/folder-results --far 0.1 --output out/search.json --page out/search.html",
        (),
    ),
    # Evaluation.
    Command(
        "evaluate-lfw",
        f"evaluate lfw --model {{in}}/model.onnx --pairs {{in}}/faces/test.bin --names {{in}}/faces/test_pairs.txt "
        f"--folds 2 {MEASURE} --threads 1 --output out",
        ("results.json",),
    ),
    Command(
        "evaluate-lfw-packs",
        f"evaluate lfw --model {{in}}/model.onnx --pairs {{in}}/packs --folds 2 {MEASURE} --no-pictures --threads 1 "
        "--output out",
        ("results.json",),
    ),
    Command(
        "evaluate-ijbc",
        f"evaluate ijbc --model {{in}}/model.onnx --root ijb --all-protocols --calibrate --protocol-cache {MEASURE} "
        "--workers 1 --threads 1 --resize --output out",
        ("results.json",),
        needs=("ijb",),
    ),
    Command(
        "evaluate-protocol",
        f"evaluate protocol ijbs --model {{in}}/model.onnx --root ijbs --resize {MEASURE} --workers 1 --threads 1 "
        "--output out",
        ("results.json",),
        needs=("ijbs",),
    ),
    Command(
        "evaluate-folder",
        f"evaluate folder --model {{in}}/model.onnx --images {{in}}/folders {MEASURE} --threads 1 --output out",
        ("results.json",),
    ),
    Command(
        "evaluate-robustness",
        f"evaluate robustness --model {{in}}/model.onnx --pairs {{in}}/faces/test.bin --folds 2 {MEASURE} --threads 1 "
        "--sample 20 --degradations jpeg shift --output out",
        ("results.json",),
    ),
    Command(
        "evaluate-classification",
        "evaluate classification --model {in}/classifier --data {in}/cifar --workers 0 --output out",
        ("results.json",),
    ),
    Command("threshold", "threshold {in}/folder-results --fmr 0.1 --json", ()),
    Command("models", "models w600k_r50 --json", ()),
    Command(
        "describe",
        "describe model.onnx --verify-with {in}/faces/test.bin --pairs 40",
        ("../model.onnx.facekd.json",),
        ("model.onnx",),
    ),
    Command("report", "report ijb-results", ("../ijb-results/report.html",), ("ijb-results",), spares="/loose_crop/"),
    Command(
        "compare",
        "report {in}/lfw-results {in}/lfw-results-other --draws 100 --output out",
        ("comparison.json",),
    ),
    # Over the results of another command, which must stay whole until the new ones are.
    Command(
        "pack-over",
        "data pack {in}/folders out --size 32 --workers 1 --force",
        ("train.rec",),
        over="data pack {in}/folders out --size 32 --workers 1 --layout im2rec",
    ),
    Command(
        "convert-over",
        "data convert {in}/faces out --shards 2 --workers 1 --force",
        ("convert_report.json",),
        over="data convert {in}/faces out --shards 2 --shuffle --workers 1",
    ),
    Command(
        "make-pairs-over",
        "data make-pairs {in}/folders out/p.bin --sample 20 --folds 2 --size 32 --workers 1 --force",
        ("p.bin",),
        over="data make-pairs {in}/folders out/p.bin --sample 16 --folds 2 --size 32 --workers 1",
    ),
    Command(
        "make-ijb-over",
        "data make-ijb {in}/folders out --image-size 32 --workers 1 --overwrite",
        ("layout.json",),
        over="data make-ijb {in}/folders out --image-size 32 --workers 1 --seed 1",
    ),
    Command(
        "synthesize-over",
        f"data synthesize --identities 8 {PEOPLE} --test-identities 20 --pairs 20 --output out --overwrite",
        ("synthesis.json",),
        over=f"data synthesize --identities 9 {PEOPLE} --test-identities 20 --pairs 20 --output out",
    ),
    Command(
        "export-over",
        "export {in}/teacher --output out/model.onnx --normalize",
        ("model.onnx",),
        over="export {in}/teacher --output out/model.onnx",
    ),
    Command(
        "evaluate-lfw-over",
        f"evaluate lfw --model {{in}}/model.onnx --pairs {{in}}/faces/test.bin --folds 2 {MEASURE} --no-pictures "
        "--threads 1 --output out",
        ("results.json",),
        over=f"evaluate lfw --model {{in}}/model.onnx --pairs {{in}}/packs --folds 2 {MEASURE} --no-flip --threads 1 "
        "--output out",
    ),
    Command(
        "evaluate-folder-over",
        f"evaluate folder --model {{in}}/model.onnx --images {{in}}/folders {MEASURE} --threads 1 --output out",
        ("results.json",),
        over=f"evaluate folder --model {{in}}/model.onnx --images {{in}}/folders {MEASURE} --no-flip --threads 1 "
        "--output out",
    ),
    Command(
        "compare-over",
        "report {in}/lfw-results {in}/lfw-results-other --draws 100 --output out",
        ("comparison.json",),
        over="report {in}/lfw-results {in}/lfw-results-other --draws 200 --output out",
    ),
    # Many commands as one.
    Command("pipeline", "pipeline sh-kd {in}/pipeline.yaml", (), expensive=True),
    Command(
        "meeting-head",
        "pipeline sh-kd {in}/pipeline.yaml --first_student taught --student.config.share 1 --teacher_from {in}/teacher "
        "--teacher.config.backbone.width 0.125 --shared_head means",
        (),
        expensive=True,
    ),
    Command("study", "study {in}/study.yaml", ("results.json",), expensive=True),
    Command("quickstart", "quickstart --size tiny --output out", ("results.json",), expensive=True),
)
COMMANDS: Mapping[str, Command] = {command.name: command for command in TABLE}
