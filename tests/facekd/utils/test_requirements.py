"""The table of packages agrees with what setup.cfg installs, and versions are compared as pip does."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path

import pytest

from facekd.utils.requirements import PACKAGES, explain_missing, installed_version, is_within

ROOT = Path(__file__).resolve().parents[3]


def names_in(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {re.split(r"[\[<>=]", line)[0] for line in lines}


def test_the_table_has_what_setup_cfg_installs() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    of_developers = ("dev", "docs")
    extras = {
        name: names_in(text) for name, text in config["options.extras_require"].items() if name not in of_developers
    }
    assert {name for name, package in PACKAGES.items() if not package.extra} == names_in(
        config["options"]["install_requires"]
    )
    for extra in {package.extra for package in PACKAGES.values()} | extras.keys():
        assert not extra or {name for name, package in PACKAGES.items() if package.extra == extra} == extras[extra]


def test_modules_belong_to_their_packages() -> None:
    for name, package in PACKAGES.items():
        if installed_version(name):
            assert importlib.util.find_spec(package.module), name


def test_another_package_with_the_same_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    about = tmp_path / "mlflow_skinny-7.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-skinny\nVersion: 7.1\n")
    (about / "top_level.txt").write_text("mlflow\n")
    if installed_version("mlflow"):
        pytest.skip("mlflow itself is installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_version("mlflow") == "7.1"


@pytest.mark.parametrize(
    "version", ["2.14.1+cpu", "2.11", "2.9.9", "2.11.0rc1", "3", "4.13.0.92", "4.14.0.94", "5.0", "10.1"]
)
@pytest.mark.parametrize("wanted", ["", ">=2.11", "<5,>=4.13", ">=4.13,<5"])
def test_versions_are_compared_as_pip_does(version: str, wanted: str) -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    expected = specifiers.SpecifierSet(wanted).contains(version.replace("rc1", ""), prereleases=True)
    assert is_within(version, wanted) == expected


def test_only_required_packages_are_explained() -> None:
    assert "needs torchvision, which is not installed here: pip install torchvision (" in (
        explain_missing("torchvision.x") or ""
    )
    assert "pip install opencv-python-headless (" in (explain_missing("cv2") or "")
    assert explain_missing("timm") is explain_missing("mine") is explain_missing(None) is None
