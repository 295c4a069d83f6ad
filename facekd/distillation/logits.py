"""Computes losses on whole matrices of logits: the KL divergence of KD, and the mix of two heads."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from facekd.distillation.checks import in_full_precision, pair
from facekd.errors import InputError
from facekd.head.loss_terms import check_temperature
from facekd.utils.wording import counted


@in_full_precision
def kd_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Computes the KL divergence of whole logits; training computes it as `KL` of `facekd/head/chunked_loss.py`.

    Hinton et al. 2015, arXiv:1503.02531, sec. 2, between softened predictions:
    T^2 / B sum_i sum_c p_t(c) (log p_t(c) - log p_s(c)), p = softmax(logits / T): summed over classes, mean over the
    batch. The factor T^2 keeps the size of the gradient the same when T changes. This is H of TH-KD (arXiv:2201.06945,
    eq. 1), for the student's own head or, with the logits of the shared one, for the teacher's.

    Args:
        student_logits: (B, C), from a head on the student's embedding; without margin, as at inference.
        teacher_logits: (B, C), from the teacher, over the same classes in the same order.
        temperature: T > 0. Scaled cosines (scale 64) are sharper than the logits of a linear layer, where 4 is usual.

    Raises:
        InputError: other shapes, another number of classes, or a temperature that is not positive.
    """
    check_temperature(temperature)
    student_BC, teacher_BC = pair(student_logits, teacher_logits, "logits")
    if student_BC.shape[1] != teacher_BC.shape[1]:
        raise InputError(
            f"the student's head has {counted(student_BC.shape[1], 'class')} and the teacher's {teacher_BC.shape[1]}: "
            "kd_kl compares class by class; train both on the same identities, or distil embeddings instead"
        )
    student_log_BC = functional.log_softmax(student_BC / temperature, dim=1)
    teacher_log_BC = functional.log_softmax(teacher_BC / temperature, dim=1)
    divergence = functional.kl_div(student_log_BC, teacher_log_BC, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mix(own: Tensor | None, shared: Tensor | None, a: float) -> Tensor:
    """Computes (1 - a) own + a shared, the mix of two heads in TH-KD (Ben-Baruch et al. 2022, arXiv:2201.06945).

    Eq. 1 mixes the two `kd_kl`, eq. 2 mixes the two cross-entropies, and the prediction mixes the two softmaxes.

    Args:
        own: from the student's own head, any shape; None only with a = 1, the student that has no head of its own.
        shared: from the teacher's frozen head on the student's embedding, same shape; None only with a = 0.
        a: in [0, 1]. At either end the other argument is not used, so it may be infinite or absent.

    Raises:
        InputError: a outside [0, 1], a missing argument, or shapes that differ.
    """
    if not 0 <= a <= 1:
        raise InputError(f"a = {a} is outside [0, 1]: 0 is the student's own head, 1 the shared one")
    if (own is None and a < 1) or (shared is None and a > 0):
        missing = "own" if own is None and a < 1 else "shared"
        raise InputError(f"a = {a} mixes two heads, but nothing was given for the {missing} one")
    if own is not None and shared is not None and own.shape != shared.shape:
        raise InputError(f"mix needs one shape, found own {tuple(own.shape)} and shared {tuple(shared.shape)}")
    if own is None or a == 1:
        assert shared is not None
        return shared
    if shared is None or a == 0:
        return own
    return (1 - a) * own + a * shared
