"""Lists the keys that `facekd train --help` and `facekd distill --help` show, each with one plain line."""

from __future__ import annotations

from facekd.margins.table import MARGINS

TRAIN_KEYS = {
    "data.train": "a .rec file, a folder with train.rec, a folder of one folder per person, or synthetic:200x20",
    "output": "folder of the run; the same command resumes it",
    "data.image_size": "pixels of the images",
    "backbone.name": "or iresnet50, timm:NAME, ...: docs/backbones.md",
    "backbone.embedding_size": "numbers in an embedding",
    "backbone.weights": "trained weights to start from; also select_weights, head.weights, freeze",
    "head.margin": ", ".join(MARGINS),
    "head.margin_value": "[arcface 0.5, cosface 0.35, adaface 0.4]",
    "epochs": "length of the run",
    "images": "its length in images, in place of epochs",
    "global_batch_size": "images per update, over all GPUs",
    "batch_size_per_rank": "per pass of one GPU; lower it if memory is short",
    "schedule.lr": "peak learning rate",
    "precision": "",
    "device": "or cpu, cuda, cuda:N",
    "seed": "random seed of the run [0]",
    "validation.packs": "evaluate meanwhile on [lfw.bin,agedb_30.bin]",
}
TRAIN_NOTES = """\
To resume, type it again. Next: `facekd export runs/NAME --output NAME.onnx`.
--dry-run tries a few steps, tells speed, memory and hours, and leaves no run.
Backbones, margins, losses of your own: --plugin FILE.py (docs/extending.md).

examples:
  facekd train configs/debug.yaml         # generated faces, about a minute
  facekd train configs/train/ms1mv3_mobilefacenet_cosface.yaml \\
      --data.train /data/ms1mv3 --output runs/mbf
"""

_SHARED = ("data.train", "output", "backbone.name", "backbone.embedding_size", "epochs", "global_batch_size")
_ALSO_SHARED = ("batch_size_per_rank", "schedule.lr", "precision", "device", "validation.packs")
DISTILL_KEYS = {
    "teacher.model": "a checkpoint, a run, or an ONNX file; several: --teacher A --teacher B",
    "teacher.head": "its classifier, from `facekd rebuild-head`",
    "teacher.cache": "its embeddings, from `facekd cache-teacher`",
    "loss.ce": "weight of the cross-entropy",
    "loss.kl": "weight of the KL divergence; others: --help-all",
    "loss.embedding_l2": "weight of the distance between embeddings",
    "share": "TH-KD: 0 to 1, how much of ce and kl goes through the teacher's frozen classifier",
    "shared_head": "SH-KD: a run's classifier, or rebuild-head's means",
    **{key: TRAIN_KEYS[key] for key in (*_SHARED, *_ALSO_SHARED)},
}
DISTILL_NOTES = """\
To resume, type it again. Next: `facekd export runs/NAME --output NAME.onnx`.
--dry-run tries a few steps, tells speed, memory and hours, and leaves no run.
Backbones, margins, losses of your own: --plugin FILE.py (docs/extending.md).

example:
  facekd distill configs/distill/ms1mv3_th_kd.yaml --data.train /data/ms1mv3 \\
      --teacher.model runs/teacher --output runs/student
"""
