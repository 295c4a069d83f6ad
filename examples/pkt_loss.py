"""Adds a distillation loss: PKT, probabilistic knowledge transfer (Passalis and Tefas 2018, arXiv:1803.10837).

    facekd distill CONFIG.yaml --plugin examples/pkt_loss.py --loss.plugin.pkt 1000

Each image of a batch has a distribution over the others, by how near their directions are; the loss is the KL
divergence from the teacher's distributions to the student's. Student and teacher may embed to different sizes.
"""

import torch
from torch.nn import functional

from facekd.distillation.losses import LossInputs
from facekd.distillation.weights import Need

SMALLEST = 1e-7


def distributions(embedding_BD: torch.Tensor) -> torch.Tensor:
    """Returns (B, B): for each image the probability of each other, (1 + cosine) / 2 over its sum."""
    unit_BD = functional.normalize(embedding_BD.float())
    nearness_BB = ((1 + unit_BD @ unit_BD.T) / 2).fill_diagonal_(0)
    return nearness_BB / nearness_BB.sum(1, keepdim=True)


def pkt(inputs: LossInputs) -> torch.Tensor:
    """Returns the mean over all pairs of p log(p / q), with the teacher's p and the student's q."""
    teacher_BB, student_BB = distributions(inputs.taught_BE), distributions(inputs.student_BD)
    ratio_BB = (teacher_BB + SMALLEST) / (student_BB + SMALLEST)
    return (teacher_BB * ratio_BB.log()).mean()


LOSSES = {"pkt": (Need.TEACHER_EMBEDDING, pkt)}
