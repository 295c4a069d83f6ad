"""Computes cross-entropy and distillation over very many classes without ever holding a (B, C) matrix.

With 93,431 identities the logits, probabilities and gradients of two heads are half a dozen (B, C) matrices, and the
normalised class centres several (C, D) ones more. Here the classes are visited in chunks of n: forward keeps a running
maximum and a running sum of exponentials per row, backward computes each chunk's products again. Beyond weights and
their gradients, memory holds a few (B, n) blocks and (C,) norms. This costs one extra matrix product per head; on a CPU
the saved memory traffic more than pays for it (`benchmarks/large_head.py`).

    own = LazyLogits.of(student_classifier, embedding_BD)
    shared = LazyLogits.of(teacher_classifier, embedding_BD)  # frozen: no gradient of its weight is computed
    teacher = LazyLogits.of(teacher_classifier, teacher_embedding_BD)
    ce, kl, th_ce, th_kl = chunked_losses(
        [CrossEntropy(own), KL(own, teacher, 4.0), CrossEntropy(shared), KL(shared, teacher, 4.0)], labels_B
    )

All terms of one call share one pass: each head is multiplied out once per chunk, heads with the same weight in one
product, and every softmax is exponentiated once.

This is what training computes. The dense forms, for one matrix of all logits, are `MarginClassifier.forward` and
`facekd.distillation.kd_kl`; tests/facekd/head/test_chunked_loss.py holds both equal to this.

A head whose classes are split over processes takes part like any other: each process passes its own rows, and gets
their losses and the gradient of its own classes by the rows of all processes (`facekd/head/class_shards.py`).

Suffixes name the dimensions of a tensor: B batch, D embedding, C classes, n classes of a chunk, K terms, R rows of a
product (B for each of its heads). With shards, C is the classes of this process, and B becomes the rows of all
processes once they are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from facekd.distributed import ALONE, sum_over_world
from facekd.errors import InputError
from facekd.head.chunked_softmax import ChunkedLosses
from facekd.head.class_scores import Product, best_scores, centre_columns
from facekd.head.loss_plan import Distribution, Plan, Term
from facekd.head.loss_terms import Comparison, CrossEntropy, LazyLogits
from facekd.labels import check_labels, labels_known_below
from facekd.utils.wording import counted

CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}  # scores of one product; on a CPU such a block stays in the cache


def chunked_losses(
    terms: Sequence[CrossEntropy | Comparison], labels_B: Tensor | None = None, *, chunk_size: int | None = None
) -> tuple[Tensor, ...]:
    """Computes several losses in one pass over the classes.

    Values and gradients equal those of the dense form up to rounding, in float32 (float64 if any embedding is float64)
    whatever autocast says. They cannot be differentiated twice. On a GPU the pass never waits for the device; the check
    of labels does, once, unless they were checked on the host (`facekd.labels.labels_checked`).

    Args:
        terms: what to compute; use the same `LazyLogits` object in several terms to have it computed once.
        labels_B: (B,), int64; needed by `CrossEntropy`.
        chunk_size: n, classes per chunk; None chooses by batch size and device.

    Returns:
        One scalar per term, in the order of the terms: means over the B rows of this process.

    Raises:
        InputError: no terms, no labels, or heads with different numbers of classes or rows; labels of the wrong shape
            or dtype, or out of range.
    """
    plan, heads = _plan(terms, labels_B)
    device = heads[0].embedding_BD.device.type
    with torch.autocast(device, enabled=False):
        # float32 at least: half embeddings are converted, float64 ones make everything float64.
        dtype = torch.float32
        for head in heads:
            dtype = torch.promote_types(dtype, head.embedding_BD.dtype)
        shards = heads[0].shards
        plan.world = ALONE if shards is None else shards.world
        plan.chunk_size = _chunk_size(plan, heads[0].embedding_BD, chunk_size)

        # Embeddings: those of teachers are cut off from autograd. Normalising (B, D) rows and converting them from
        # half types is cheap, so autograd does it.
        raw = _gathered(heads, dtype)
        embeddings = [functional.normalize(e) if h.is_normalized else e for h, e in zip(heads, raw, strict=True)]
        students = plan.student_heads
        embeddings = [e if i in students else e.detach() for i, e in enumerate(embeddings)]

        # Targets: their logits with margin, computed apart from the pass.
        by_norms: dict[int, Tensor] = {}
        if labels_B is not None:
            plan.columns_B = _columns(heads[0], plan, labels_B)
            by_norms = _find_targets(plan, heads, embeddings, raw)

        # The pass itself; with shards it returns the losses of all processes' rows.
        firsts = [heads[product.heads[0]] for product in plan.products]
        losses_KB = ChunkedLosses.apply(plan, *embeddings, *(h.weight_CD for h in firsts), *(h.bias_C for h in firsts))
        assert isinstance(losses_KB, Tensor)
        if shards is not None:
            own_rows = shards.own_rows(losses_KB.shape[1])
            losses_KB, by_norms = losses_KB[:, own_rows], {index: found[own_rows] for index, found in by_norms.items()}
        losses = list(losses_KB.unbind(0))
        for number, term in enumerate(plan.terms):
            index = plan.distributions[term.student].head
            if term.kind == "cross entropy" and index in by_norms:
                losses[number] = losses[number] + _through_norms(heads[index], by_norms[index], losses[number], dtype)
        return tuple(loss_B.mean() for loss_B in losses)


def _chunk_size(plan: Plan, embedding_BD: Tensor, given: int | None) -> int:
    """Returns the classes per chunk: those given, or as many as suit the batch and the device.

    Then its largest product, over the rows of all processes, has about CHUNK_ELEMENTS scores, but it is not so small
    that the overhead per chunk dominates.
    """
    heads = max(len(product.heads) * product.sub_centers for product in plan.products)
    rows = heads * len(embedding_BD) * plan.world.size
    if given is None:
        elements = CHUNK_ELEMENTS.get(embedding_BD.device.type, CHUNK_ELEMENTS["cuda"])
        given = max(256, elements // max(rows, 1))
    if given < 1:
        raise InputError(f"chunk_size = {given}: a chunk holds at least one class")
    return min(given, plan.num_classes)


def _find_targets(
    plan: Plan, heads: Sequence[LazyLogits], embeddings: Sequence[Tensor], raw: Sequence[Tensor]
) -> dict[int, Tensor]:
    """Computes the targets' scores of each `TargetKL`, and the margined ones of each cross-entropy, into the plan.

    The latter is all that most margins need, and the only place where they are applied. Some also change the scores of
    other classes in the pass, by a function of each row's target, or have a gradient through the norms of the
    embeddings.

    Args:
        plan: changed in place.
        heads: heads of the plan.
        embeddings: embeddings (B, D) by head, as they are multiplied.
        raw: the same before they are normalised.

    Returns:
        By head, for those with a gradient through the norms, the target scores (B,).
    """
    for term in plan.terms:
        for side in (term.student, term.teacher) if term.kind == "target kl" else ():
            assert side is not None
            head = plan.distributions[side].head
            plan.target_scores[head] = _target_scores(heads[head], embeddings[head].detach(), plan)
    by_norms: dict[int, Tensor] = {}
    for index in {d.head for d in plan.distributions if d.target == "margined"}:
        head = heads[index]
        target_B, plan.targets[index] = _target_logits(head, embeddings[index].detach(), raw[index].detach(), plan)
        if head.others is None and head.norm_loss is None:
            continue
        # These need the targets of all rows in every process, and now.
        margined_B = plan.targets[index][0] / head.scale
        target_B, margined_B = sum_over_world(torch.stack([target_B, margined_B]), plan.world)
        if head.others is not None:
            plan.others[index] = head.others(target_B, margined_B)
        if head.norm_loss is not None:
            by_norms[index] = target_B
    return by_norms


def _through_norms(head: LazyLogits, target_B: Tensor, loss_B: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the loss of the norms (B,), and adds the gradient that the cross-entropy has through them, of value 0.

    The target's logit t depends on the norm by its margin, and d CE / d t = p - 1 with p = exp(-CE).
    """
    assert head.margin is not None and head.norm_loss is not None
    embedding_BD = head.embedding_BD.to(dtype)
    with labels_known_below(1):
        label_B = torch.zeros(len(target_B), dtype=torch.int64, device=target_B.device)
        logit_B = head.margin(target_B[:, None], label_B, embedding_BD)[:, 0] * head.scale
    slope_B = (-loss_B.detach()).expm1()
    return slope_B * (logit_B - logit_B.detach()) + head.norm_loss(embedding_BD)


def _gathered(heads: Sequence[LazyLogits], dtype: torch.dtype) -> list[Tensor]:
    """Returns the embeddings by head, with shards those of all processes; each tensor is exchanged once."""
    # By identity: student and teacher terms often name the same tensor.
    found: dict[int, Tensor] = {}
    for head in heads:
        if id(head.embedding_BD) not in found:
            embedding_BD = head.embedding_BD.to(dtype)
            found[id(head.embedding_BD)] = embedding_BD if head.shards is None else head.shards.gather(embedding_BD)
    return [found[id(head.embedding_BD)] for head in heads]


def _columns(head: LazyLogits, plan: Plan, labels_B: Tensor) -> Tensor:
    """Checks the labels and returns their places among the classes of this process."""
    # Labels count the classes of the whole head, so they are checked before they become places.
    shards = head.shards
    check_labels(labels_B, plan.num_classes if shards is None else shards.num_classes)
    return labels_B if shards is None else shards.columns(shards.gather(labels_B), head.sample_C)


def _target_scores(head: LazyLogits, embedding_BD: Tensor, plan: Plan) -> Tensor:
    """Computes the scores (B,) of the targets; 0 for a class of another process, so that they add up over processes."""
    # The target's score alone, from its own class centre; for classes of other processes some row stands in.
    assert plan.columns_B is not None
    with torch.no_grad():
        column_B = plan.columns_B.clamp(min=0)
        if len(head.weight_CD):
            row_BD = head.weight_CD[column_B].to(embedding_BD.dtype)
        else:
            row_BD = embedding_BD.new_zeros(len(embedding_BD), head.weight_CD.shape[1])
        centres = centre_columns(row_BD, head.sub_centers)
        if head.is_normalized:
            centres = [functional.normalize(centre_BD) for centre_BD in centres]
        score_B, _ = best_scores([(embedding_BD * centre_BD).sum(1) for centre_BD in centres])
        if head.bias_C is not None:
            score_B = score_B + head.bias_C[column_B]
        return torch.where(plan.columns_B >= 0, score_B, 0)


def _target_logits(
    head: LazyLogits, embedding_BD: Tensor, raw_BD: Tensor, plan: Plan
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Computes target scores (B,), and margined target logits (B,) with the slopes (B,) of these scores.

    Where the target is a class of another process, score and logit are 0 here: they are added up over processes.
    """
    assert plan.columns_B is not None
    score_B = _target_scores(head, embedding_BD, plan)
    if head.margin is None:
        return score_B, (score_B * head.scale, torch.ones_like(score_B))
    # The margin sees (B, 1) cosines with label 0, and autograd computes its slope.
    with torch.enable_grad(), labels_known_below(1):
        score_B1 = score_B.clone()[:, None].requires_grad_()
        margined_B1 = head.margin(score_B1, torch.zeros_like(plan.columns_B), raw_BD)
        (slope_B1,) = torch.autograd.grad(margined_B1.sum(), score_B1)
    logit_B = torch.where(plan.columns_B >= 0, margined_B1.detach()[:, 0] * head.scale, 0)
    return score_B, (logit_B, slope_B1[:, 0])


def _plan(terms: Sequence[CrossEntropy | Comparison], labels_B: Tensor | None) -> tuple[Plan, list[LazyLogits]]:
    """Finds the distinct heads, softmax distributions and matrix products of some terms, and checks that they fit."""
    if not terms:
        raise InputError("no loss terms were given")
    # Heads and distributions that several terms share are listed once.
    heads: list[LazyLogits] = []
    distributions: list[Distribution] = []

    def distribution(logits: LazyLogits, *of_softmax: Any) -> int:
        if logits not in heads:
            heads.append(logits)
        found = Distribution(heads.index(logits), *of_softmax)
        if found not in distributions:
            distributions.append(found)
        return distributions.index(found)

    # A term is a distribution, or a pair of them: cross-entropy against labels, comparisons against the teacher's.
    planned: list[Term] = []
    for term in terms:
        if isinstance(term, CrossEntropy):
            planned.append(Term("cross entropy", distribution(term.logits, 1.0, "margined")))
        else:
            of_softmax = (term.temperature, "left out" if term.leaves_out_target else "plain", term.standardize)
            student = distribution(term.student, *of_softmax)
            planned.append(Term(term.kind, student, distribution(term.teacher, *of_softmax)))

    num_classes = _check_fit(heads, labels_B, any(d.target != "plain" for d in distributions))
    # Heads with the same weight share a product; students come first, as only their rows get gradients.
    students = {distributions[term.student].head for term in planned}
    # Identity of the weight counts, and whatever changes how it is multiplied.
    by_weight: dict[tuple, list[int]] = {}
    for index, head in enumerate(heads):
        key = (id(head.weight_CD), id(head.bias_C), head.is_normalized, head.product_dtype, head.sub_centers)
        by_weight.setdefault(key, []).append(index)
    products = [
        Product(
            heads=sorted(indices, key=lambda index: index not in students),
            num_students=sum(index in students for index in indices),
            is_normalized=heads[indices[0]].is_normalized,
            product_dtype=heads[indices[0]].product_dtype,
            sub_centers=heads[indices[0]].sub_centers,
        )
        for indices in by_weight.values()
    ]
    # Labels, targets, chunk size and world are filled in by the caller.
    scales = [head.scale for head in heads]
    return Plan(num_classes, scales, None, products, distributions, planned), heads


def _check_fit(heads: Sequence[LazyLogits], labels_B: Tensor | None, needs_labels: bool) -> int:
    """Checks that heads and labels of one call fit each other; returns C, the number of classes."""
    # All heads must have the same images and classes.
    shapes = {(head.embedding_BD.shape[0], head.weight_CD.shape[0]) for head in heads}
    if len(shapes) > 1:
        raise InputError(
            "heads of one call must agree in images and classes, found (B, C) = "
            f"{', '.join(map(str, sorted(shapes)))}: student and teacher must share their identities"
        )
    # Labels must be there where a cross-entropy needs them, one per image.
    ((batch_size, num_classes),) = shapes
    if needs_labels and labels_B is None:
        raise InputError("cross-entropy and the two parts of DKD need labels")
    if labels_B is not None and labels_B.shape[:1] != (batch_size,):
        raise InputError(f"{tuple(labels_B.shape)} labels for {counted(batch_size, 'embedding')}")

    # One exchange over processes serves all heads, so they must be split over the same ones, with the same draw.
    if any(head.shards != heads[0].shards or head.sample_C is not heads[0].sample_C for head in heads):
        raise InputError("heads of one call must be split alike: all over the same processes, or none")
    return num_classes
