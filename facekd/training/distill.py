"""Verb `facekd distill`: trains a student from a teacher, through a shared classifier, by embeddings, or both.

    facekd distill configs/distill/ms1mv3_th_kd.yaml
    facekd distill configs/distill/ms1mv3_th_kd.yaml --teacher.model runs/teacher --output runs/student
    facekd distill configs/distill/ms1mv3_l2.yaml --teacher runs/one --teacher other.onnx --output runs/student

The loop is that of training; what differs is what the loss is made of (`facekd/training/distilling/distiller.py`). The
teacher is evaluated, never trained; its classifier is frozen and checked to know the same people. To resume, run the
same command again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facekd.commands.config_files import parse_config
from facekd.commands.config_help import show_short_help, take_switch
from facekd.errors import run_verb
from facekd.teacher.config import spell_out_teachers
from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.main_keys import DISTILL_KEYS, DISTILL_NOTES

if TYPE_CHECKING:
    from facekd.training.loop import MakeValidators


def main(argv: list[str] | None = None, make_validators: MakeValidators | None = None) -> int:
    """Parses the command line and distils.

    Args:
        argv: words after the verb; None takes the process's own.
        make_validators: turns the config into validators; the caller gives it, because training knows no benchmark.
    """
    description = "Trains a student from a teacher, through a shared classifier or by embeddings."
    argv = show_short_help(argv, DistillConfig, "facekd distill", description, DISTILL_KEYS, DISTILL_NOTES)
    argv, is_dry = take_switch(argv, "--dry-run")
    config = parse_config(DistillConfig, spell_out_teachers(argv), "facekd distill", description)
    # After parsing, because they import torch, which takes seconds: `--help` and a mistyped key answer at once.
    from facekd.training.distilling.build_distiller import build_distiller
    from facekd.training.distilling.diagnostics import diagnose
    from facekd.training.loop import run_training

    run = None
    if is_dry:
        from facekd.training.dry_run import dry_run as run
    return run_training(config, "facekd distill", build_distiller, make_validators, at_end=diagnose, run=run)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
