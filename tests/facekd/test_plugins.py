"""Tests plug-ins: what they add, what checkpoints record of them, and that their code runs only where it is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from facekd import plugins
from facekd.backbones.building import BACKBONES
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.cli import main
from facekd.commands.config_files import parse_config
from facekd.distillation.losses import EMBEDDING_LOSSES
from facekd.distillation.weights import LOSS_NEEDS
from facekd.errors import CheckpointError, ConfigError
from facekd.files.reading import sha256_of_file
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import CrossEntropy, LazyLogits
from facekd.margins import MARGIN_FUNCTIONS, MARGINS, OTHER_COSINES
from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.idle_settings import idle_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PLAIN = EXAMPLES / "plain_backbone.py"
MARGIN = """
from facekd.margins import Margin, Parameter
def less(cosine, labels, margin=0.1, *, gradient="exact"):
    return cosine.scatter_add(1, labels[:, None], cosine.new_full((len(labels), 1), -margin))
MARGINS = {"less": (Margin({"margin": Parameter(0.1, 0.0, 1.0, "units of cosine", key="margin_value")}), less)}
"""


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """Gives facekd's tables back as they were."""
    held = (BACKBONES, MARGINS, MARGIN_FUNCTIONS, OTHER_COSINES, LOSS_NEEDS, EMBEDDING_LOSSES, plugins._loaded)
    before = [dict(table) for table in held]
    with mock.patch.dict(os.environ):
        os.environ.pop(plugins.VARIABLE, None)
        yield
    for table, rows in zip(held, before, strict=True):
        table.clear()
        table.update(rows)  # type: ignore[arg-type]


def forget() -> None:
    """Is a new process: no plug-in is loaded, and none is named."""
    for name in [name for plugin in plugins._loaded.values() for name in plugin.provides]:
        BACKBONES.pop(name.removeprefix("backbone "), None)
    plugins._loaded.clear()
    os.environ.pop(plugins.VARIABLE, None)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def run(tiny_arguments: list[str], tmp_path: Path) -> Path:
    words = [word for word in tiny_arguments if word != "mobilefacenet"]
    words.remove("--backbone.name")
    assert main(["train", "--plugin", str(PLAIN), *words, "--backbone.name", "plain", "--images", "36"]) == 0
    return tmp_path / "run"


def test_a_backbone_is_trained_recorded_and_opened_where_it_is_named(run: Path, tmp_path: Path) -> None:
    expected = [{"provides": "backbone plain", "name": PLAIN.name, "sha256": sha256_of_file(PLAIN)}]
    assert read_checkpoint(run).plugins == expected
    embedding = load_backbone(run)[0](torch.zeros(2, 3, 32, 32))
    # Another process: its code does not run because a file says so.
    forget()
    with pytest.raises(
        CheckpointError, match=r"its backbone plain is code of the plug-in plain_backbone.py \(sha256 \w{12}\)"
    ):
        load_backbone(run)
    assert main(["export", str(run), "--output", str(tmp_path / "a.onnx"), f"--plugin={PLAIN}"]) == 0
    assert torch.equal(load_backbone(run)[0](torch.zeros(2, 3, 32, 32)), embedding)
    # The exported file needs nobody's code.
    forget()
    from facekd.embedder import open_embedder

    found = open_embedder(tmp_path / "a.onnx").embed(np.full((1, 32, 32, 3), 127, np.uint8))
    assert found.shape == (1, 16)


@pytest.mark.slow
def test_the_environment_names_plugins_too_and_processes_that_are_started_know_them(run: Path) -> None:
    assert os.environ[plugins.VARIABLE] == str(PLAIN)
    code = f"from facekd.checkpoints.models import load_backbone; print(load_backbone({str(run)!r})[0].name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "plain\n", done.stderr


def test_a_plugin_that_changed_is_a_warning(
    run: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    forget()
    plugins.load_plugin(str(write(PLAIN.read_text() + "# changed\n")))
    load_backbone(run)
    assert "warning: " in (said := capsys.readouterr().err) and "mine.py has " in said


def test_embeddings_of_a_plugin_that_changed_are_other_embeddings(run: Path, write: Callable[..., Path]) -> None:
    from facekd.embedder import open_embedder

    fingerprints = [open_embedder(run).fingerprint for _ in range(2)]
    forget()  # kept embeddings, thresholds and galleries go by it
    plugins.load_plugin(str(write(PLAIN.read_text().replace("self.embedding(self", "-self.embedding(self"))))
    fingerprints.append(open_embedder(run).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_margin_goes_through_training_and_its_range_is_checked(
    write: Callable[..., Path], tiny_arguments: list[str]
) -> None:
    words = [*tiny_arguments, "--images", "36", "--head.margin", "less", "--plugin", str(write(MARGIN))]
    assert main(["train", *words]) == 0
    with pytest.raises(ConfigError, match=r"head\.margin_value = 2 is outside \[0, 1\)"):
        HeadConfig(margin="less", margin_value=2)
    assert read_checkpoint(Path(tiny_arguments[tiny_arguments.index("--output") + 1])).plugins is not None


def test_mv_softmax_is_the_published_formula() -> None:
    plugins.load_plugin(str(EXAMPLES / "mv_softmax_margin.py"))
    torch.manual_seed(0)
    head = build_classifier(HeadConfig(margin="mv_softmax", margin_value=0.2, scale=1.0), 3, 6).double()
    embedding, labels = torch.randn(9, 3, dtype=torch.float64), torch.randint(6, (9,))
    found, hard = head(embedding, labels), 0
    for row, label, cosine in zip(found.tolist(), labels.tolist(), head.cosine(embedding).tolist(), strict=True):
        margined = cosine[label] - 0.2
        for j, value in enumerate(cosine):
            is_hard = j != label and value > margined
            hard += is_hard
            assert row[j] == pytest.approx(margined if j == label else 1.12 * value + 0.12 if is_hard else value)
    assert hard > 5
    terms = [CrossEntropy(LazyLogits.of(head, embedding))]
    dense = torch.nn.functional.cross_entropy(found, labels)
    torch.testing.assert_close(chunked_losses(terms, labels, chunk_size=2)[0], dense)


def test_a_loss_has_a_weight_and_a_column_in_the_log(tiny_arguments: list[str], tmp_path: Path) -> None:
    from facekd.training.logbook import read_log

    assert main(["train", *tiny_arguments, "--images", "36", "--output", str(tmp_path / "teacher")]) == 0
    words = [*tiny_arguments, "--images", "36", "--teacher.model", str(tmp_path / "teacher")]
    plug_in = ["--plugin", str(EXAMPLES / "pkt_loss.py")]
    assert main(["distill", *words, *plug_in, "--loss.plugin.pkt", "1000"]) == 0
    assert all(entry["loss_pkt"] > 0 for entry in read_log(tmp_path / "run", "train"))
    forget()
    EMBEDDING_LOSSES.pop("pkt"), LOSS_NEEDS.pop("pkt")
    assert main(["distill", *words, "--loss.plugin.pkt", "1000"]) == 2


def test_a_loss_may_read_the_temperature(tiny_arguments: list[str]) -> None:
    plugins.load_plugin(str(EXAMPLES / "pkt_loss.py"))
    said = "loss.temperature = 2.0 has no effect: no loss that has one is active"
    for weight, found in (("1", []), ("0", [said])):
        words = ["--teacher.model", "t", "--loss.plugin.pkt", weight, "--loss.embedding_cosine", "1"]
        words = [*tiny_arguments, *words, "--loss.temperature", "2"]
        assert idle_settings(parse_config(DistillConfig, words, "", "")) == found


def test_pkt_equals_a_loop() -> None:
    from facekd.distillation.losses import LossInputs

    plugins.load_plugin(str(EXAMPLES / "pkt_loss.py"))
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    none = dict.fromkeys(LossInputs.__dataclass_fields__, None)
    value = EMBEDDING_LOSSES["pkt"](LossInputs(**{**none, "student_BD": student, "teacher_BE": teacher}))
    total = 0.0
    for i in range(5):
        nearness = [
            {j: (1 + float(torch.cosine_similarity(rows[i], rows[j], dim=0))) / 2 for j in range(5) if j != i}
            for rows in (teacher, student)
        ]
        p, q = ({j: value / sum(one.values()) for j, value in one.items()} for one in nearness)
        total += sum(p[j] * np.log((p[j] + 1e-7) / (q[j] + 1e-7)) for j in p)
    assert float(value) == pytest.approx(total / 25, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py: is no plug-in: it has none of BACKBONES, MARGINS, LOSSES"),
        ("BACKBONES = {'iresnet50': int}", "the backbone iresnet50 exists already: give yours another name"),
        ("BACKBONES = {'mine': int}", r"BACKBONES\['mine'\] is no subclass of facekd.backbones.Backbone"),
        ("BACKBONES = [1]", "its BACKBONES is a list, expected a dict of names"),
        ("BACKBONES = {'a b': int}", "'a b' is no name"),
        ("MARGINS = {'mine': 3}", r"MARGINS\['mine'\] is no pair of a facekd.margins.Margin and a function"),
        ("LOSSES = {'ce': 3}", "the loss ce exists already"),
        ("LOSSES = {'mine': 3}", r"LOSSES\['mine'\] is no pair of a facekd.distillation.weights.Need and"),
        ("x = 1\n\ny = 1 / 0", "mine.py, line 3: the plug-in fails: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:", "mine.py, line 2: the plug-in fails: SyntaxError"),
        ("import sys\nsys.exit(0)", "mine.py, line 2: the plug-in fails: SystemExit: 0"),
        ("import nothing_like_this", "mine.py, line 1: the plug-in fails: ModuleNotFoundError"),
        (MARGIN.replace('"margin_value"', '"mine"'), "has a parameter with the key mine, and the head section has"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused(text: str, message: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=message):
        plugins.load_plugin(str(write(text)))


def test_a_plugin_that_ends_the_command_while_it_runs_is_an_error(
    write: Callable[..., Path], tiny_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("import sys", "from facekd.backbones import Backbone", "class Mine(Backbone):")
    path = write("\n".join([*lines, "    def __init__(self, *_, **__): sys.exit(0)", "BACKBONES = {'mine': Mine}"]))
    words = [word for word in tiny_arguments if word != "mobilefacenet"]
    words.remove("--backbone.name")
    assert main(["train", "--plugin", str(path), *words, "--backbone.name", "mine"]) == 2
    assert f"error: {path}, line 4: the plug-in ends the command by sys.exit" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # the parser's own
        main(["embed", "--plugin", str(path), "--nothing"])


def test_what_is_no_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.py: no such plug-in; give a Python file"):
        plugins.load_plugin(str(tmp_path / "missing.py"))
    with pytest.raises(ConfigError, match="nothing: no such plug-in; give a Python file, or a name: none is installed"):
        plugins.load_plugin("nothing")
    colon = tmp_path / "a:b.py"  # loaded, it could not be named in the environment, and nothing would load after it
    colon.write_text(MARGIN)
    with pytest.raises(ConfigError, match=r"a:b\.py: has a ':' in its path, which separates plug-ins in FACEKD"):
        plugins.load_plugin(str(colon))
    assert not plugins._loaded
    with pytest.raises(ConfigError, match="--plugin needs a Python file"):
        plugins.take_plugins(["--plugin"])


def test_an_installed_package_names_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_faces"
    package.mkdir()
    (package / "__init__.py").write_text(MARGIN)
    (package / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("my-faces", "my_faces", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    first = plugins.load_plugin("my-faces")
    assert (first.name, first.provides) == ("my-faces", ["margin less"]) and "less" in MARGINS
    with pytest.raises(ConfigError, match="my-face: no such plug-in; did you mean my-faces"):
        plugins.load_plugin("my-face")
