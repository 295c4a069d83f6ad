"""Compares sharded heads with whole ones, in each of several processes, for `test_sharded_heads.py`."""

from __future__ import annotations

import torch

from facekd.distributed import World, gather_rows, mean_over_world, sum_over_world
from facekd.head.chunked_loss import chunked_losses
from facekd.head.class_shards import ClassShards
from facekd.head.classifier import MarginClassifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import KL, CrossEntropy, InterClass, IntraClass, LazyLogits, OthersKL, TargetKL
from facekd.head.partial_fc import partial_fc_step
from facekd.training.distilling.diagnostics import first_class

SIZE, TEACHER_SIZE, ROWS = 7, 5, 4


class Example:
    """Holds the embeddings of all processes, a whole student's head and a teacher's frozen one; the same everywhere."""

    def __init__(self, world: World, config: HeadConfig, num_classes: int, rows: int, dtype: torch.dtype) -> None:
        torch.manual_seed(num_classes)
        count = rows * world.size
        self.config, self.num_classes = config, num_classes
        self.own = MarginClassifier(SIZE, num_classes, config).to(dtype)
        self.frozen = MarginClassifier(TEACHER_SIZE, num_classes, config).to(dtype).requires_grad_(False)
        self.embedding = torch.randn(count, SIZE, dtype=dtype) * 3
        self.projection = torch.randn(SIZE, TEACHER_SIZE, dtype=dtype)
        self.teacher = torch.randn(count, TEACHER_SIZE, dtype=dtype)
        self.labels = torch.randint(num_classes, (count,))

    def sharded(self, head: MarginClassifier, world: World) -> MarginClassifier:
        shards = ClassShards(self.num_classes, world)
        found = MarginClassifier(head.embedding_size, self.num_classes, self.config, shards).to(head.weight.dtype)
        with torch.no_grad():
            found.weight.copy_(shards.own(head.weight))
        return found.requires_grad_(head.weight.requires_grad)


def losses_of(own: MarginClassifier, frozen: MarginClassifier, embedding, projection, teacher, labels, chunk_size):
    student = LazyLogits.of(own, embedding)
    shared, taught = LazyLogits.of(frozen, embedding @ projection), LazyLogits.of(frozen, teacher)
    terms = [CrossEntropy(student), KL(student, taught, 4.0), CrossEntropy(shared), KL(shared, taught, 2.0)]
    return torch.stack(chunked_losses(terms, labels, chunk_size=chunk_size))


def compare(
    world: World, example: Example, rows: int, tolerance: float, chunk_size: int | None, by_norm: bool = False
) -> None:
    """Compares losses and gradients of this process's part with those of one process with all rows and classes."""

    def assert_close(found: torch.Tensor, truth: torch.Tensor) -> None:
        if by_norm:
            assert (found - truth).norm() <= tolerance * truth.norm(), float((found - truth).norm() / truth.norm())
        else:
            torch.testing.assert_close(found, truth, atol=tolerance, rtol=tolerance)

    weights = torch.tensor([1.0, 1.5, 0.3, 0.7], dtype=example.embedding.dtype)
    own_rows = slice(world.rank * rows, (world.rank + 1) * rows)

    whole = example.embedding.clone().requires_grad_(), example.projection.clone().requires_grad_()
    expected = losses_of(example.own, example.frozen, *whole, example.teacher, example.labels, chunk_size)
    (expected * weights).sum().backward()
    expected_rows = torch.stack(
        [
            losses_of(
                example.own,
                example.frozen,
                example.embedding[part],
                example.projection,
                example.teacher[part],
                example.labels[part],
                None,
            )
            for part in (slice(r * rows, (r + 1) * rows) for r in range(world.size))
        ]
        if example.config.margin not in WITH_STATISTICS
        else [expected] * world.size
    )

    own, frozen = (example.sharded(head, world) for head in (example.own, example.frozen))
    part = example.embedding[own_rows].clone().requires_grad_(), example.projection.clone().requires_grad_()
    losses = losses_of(own, frozen, *part, example.teacher[own_rows], example.labels[own_rows], chunk_size)
    # Scaled as a loss scaler would, and unlike on each process's own: only the gradient may carry it.
    (losses * weights).sum().backward()

    if example.config.margin not in WITH_STATISTICS:
        assert_close(losses, expected_rows[world.rank])
    assert own.shards is not None and example.own.weight.grad is not None
    assert own.weight.grad is not None and part[0].grad is not None and part[1].grad is not None
    assert whole[0].grad is not None and whole[1].grad is not None
    assert_close(own.weight.grad, own.shards.own(example.own.weight.grad))
    # Averaged over processes, as DistributedDataParallel does with what they share, they are those of one process.
    assert_close(part[0].grad / world.size, whole[0].grad[own_rows])
    summed = sum_over_world(part[1].grad.clone(), world)
    assert_close(summed / world.size, whole[1].grad)
    torch.testing.assert_close(dict(own.named_buffers()), dict(example.own.named_buffers()))
    example.own.weight.grad = None
    assert torch.equal(first_class(own, example.embedding), example.own.cosine(example.embedding).argmax(1))


def comparisons_of(own: MarginClassifier, frozen: MarginClassifier, embedding, teacher, labels, chunk_size):
    student, taught = LazyLogits.of(own, embedding), LazyLogits.of(frozen, teacher)
    kinds = (KL, TargetKL, OthersKL, InterClass, IntraClass)
    terms = [kind(student, taught, 2.0, standardize) for kind in kinds for standardize in (False, True)]
    return torch.stack(chunked_losses(terms, labels, chunk_size=chunk_size))


def compare_comparisons(world: World, example: Example, rows: int, chunk_size: int | None) -> None:
    """Compares the parts of DKD and DIST, and standardised logits, with those of each process's rows on whole heads."""
    weights = torch.linspace(0.5, 2, 10, dtype=example.embedding.dtype)
    parts = [slice(rank * rows, (rank + 1) * rows) for rank in range(world.size)]
    whole = example.embedding.clone().requires_grad_()
    expected = torch.stack(
        [
            comparisons_of(
                example.own, example.frozen, whole[part], example.teacher[part], example.labels[part], chunk_size
            )
            for part in parts
        ]
    )
    (expected.mean(0) * weights).sum().backward()

    own, frozen = (example.sharded(head, world) for head in (example.own, example.frozen))
    part = parts[world.rank]
    mine = example.embedding[part].clone().requires_grad_()
    losses = comparisons_of(own, frozen, mine, example.teacher[part], example.labels[part], chunk_size)
    (losses * weights).sum().backward()
    assert own.shards is not None and example.own.weight.grad is not None and whole.grad is not None
    assert own.weight.grad is not None and mine.grad is not None
    torch.testing.assert_close(losses, expected[world.rank], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(own.weight.grad, own.shards.own(example.own.weight.grad), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(mine.grad / world.size, whole.grad[part], atol=1e-9, rtol=1e-9)
    example.own.weight.grad = None


def compare_sampled(world: World, example: Example, rows: int, num_passes: int) -> None:
    """Compares a step of drawn classes, in several passes, with a head that has only these classes."""
    own, frozen = (example.sharded(head, world) for head in (example.own, example.frozen))
    shards = own.shards
    assert shards is not None
    optimizer = torch.optim.SGD([own.weight], lr=0.1, momentum=0.9)
    before = own.weight.detach().clone()
    own_rows = slice(world.rank * rows, (world.rank + 1) * rows)
    # (processes, passes, rows a pass, ...), as the rows of one process lie together
    in_passes = [
        tensor.unflatten(0, (world.size, num_passes, -1))
        for tensor in (example.embedding, example.teacher, example.labels)
    ]
    with partial_fc_step([own, frozen], example.labels[own_rows], optimizer, 7, 0):
        assert own.sample is not None
        places, leaf = own.sample
        losses = []
        for number in range(num_passes):
            embedding, teacher, labels = (tensor[world.rank, number] for tensor in in_passes)
            losses.append(losses_of(own, frozen, embedding, example.projection, teacher, labels, 3))
            (losses[-1].sum() / num_passes).backward()
        assert leaf.grad is not None
        gradient = leaf.grad.clone()
        optimizer.step()
    drawn = torch.from_numpy(gather_rows((places + shards.start).numpy(), world))

    small_own, small_frozen = (
        MarginClassifier(head.embedding_size, len(drawn), example.config).to(head.weight.dtype)
        for head in (example.own, example.frozen)
    )
    with torch.no_grad():
        small_own.weight.copy_(example.own.weight[drawn])
        small_frozen.weight.copy_(example.frozen.weight[drawn])
    small_frozen.requires_grad_(False)
    for number in range(num_passes):
        embedding, teacher, labels = (tensor[:, number].flatten(0, 1) for tensor in in_passes)
        renumbered = torch.searchsorted(drawn, labels)
        assert torch.equal(drawn[renumbered], labels)
        whole = losses_of(small_own, small_frozen, embedding, example.projection, teacher, renumbered, None)
        (whole.sum() / num_passes).backward()
        torch.testing.assert_close(mean_over_world(losses[number].detach().clone(), world), whole.detach())
    assert small_own.weight.grad is not None
    first = int((drawn < shards.start).sum())
    torch.testing.assert_close(gradient, small_own.weight.grad[first : first + len(places)])
    after = before.clone()
    after[places] -= 0.1 * gradient
    torch.testing.assert_close(own.weight.detach(), after)


CONFIGS = [
    HeadConfig(),
    HeadConfig(margin="cosface", scale=32.0),
    HeadConfig(margin="combined", m1=1.1, m2=0.2, m3=0.1),
    HeadConfig(margin="adaface"),
    HeadConfig(margin="none", scale=20.0),
    HeadConfig(margin="curricularface", scale=32.0),
    HeadConfig(margin="cosface", scale=32.0, filter_above=0.4),
    HeadConfig(margin="magface", scale=32.0, norm_low=2.0, norm_high=20.0, norm_weight=3.0),
    HeadConfig(scale=32.0, sub_centers=3),
]
WITH_STATISTICS = ("adaface", "curricularface")


def check(world: World) -> None:
    """Checks every kind of head, class counts that do not divide, chunks, drawn classes and half precision."""
    for config in CONFIGS:
        for num_classes in (2, 5, 23, 40):  # 2 and 5 leave processes without classes
            for chunk_size in (3, None):
                compare(world, Example(world, config, num_classes, ROWS, torch.float64), ROWS, 1e-9, chunk_size)
    for num_classes in (4, 23):  # 4 leave one of three processes without classes
        for chunk_size in (3, None):
            example = Example(world, CONFIGS[1], num_classes, ROWS, torch.float64)
            compare_comparisons(world, example, ROWS, chunk_size)
    for num_classes in (2, 5, 40):
        for sub_centers in (1, 2):
            sampled = HeadConfig(scale=16.0, sharded=True, sample_rate=0.3, sub_centers=sub_centers)
            compare_sampled(world, Example(world, sampled, num_classes, 2 * ROWS, torch.float64), 2 * ROWS, 2)
    for rows in (3, 5, 2):  # the batch may change from step to step
        compare(world, Example(world, CONFIGS[0], 1000, rows, torch.float32), rows, 2e-5, 128)
    # The same products, rounded alike; what adds up differently is small.
    with torch.autocast("cpu", torch.bfloat16):
        half = Example(world, HeadConfig(product="autocast"), 500, ROWS, torch.float32)
        compare(world, half, ROWS, 1e-2, 64, by_norm=True)
