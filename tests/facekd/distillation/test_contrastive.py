"""Compares CRD with a naive loop; tests its memories, draws, checkpoints and refusals."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch

from facekd.distillation import ContrastiveDistillation, ContrastiveSettings, contrastive_loss
from facekd.errors import InputError
from facekd.utils.randomness import GOLDEN_GAMMA, mix64

LABELS = torch.tensor([4, 4, 9, 4, 2, 9, 9, 2, 4, 4, 2, 9])  # of 12 images, neither sorted nor dense
INDICES = torch.tensor([7, 0, 5, 11])


def build(**overrides):
    given = {"labels": LABELS, "projection_size": 4, "num_negatives": 6, "seed": 3, **overrides}
    labels, seed = given.pop("labels"), given.pop("seed")
    settings = ContrastiveSettings(**given)
    return ContrastiveDistillation(5, 3, 12, labels=labels, settings=settings, seed=seed).double()


def embeddings(seed=0, batch=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, 5, generator=generator, dtype=dtype)
    return student, torch.randn(batch, 3, generator=generator, dtype=dtype)


def projected(layer, embedding):
    rows = [
        [sum(w * x for w, x in zip(weights, row, strict=True)) + b for weights, b in zip(*parameters, strict=True)]
        for row in embedding.tolist()
        for parameters in [(layer.weight.tolist(), layer.bias.tolist())]
    ]
    return [[value / math.hypot(*row) for value in row] for row in rows]


def naive_step(module, student, teacher, indices, negatives):
    """Computes loss and both memories after the first training batch, one number at a time."""
    memories = [module.student_memory.tolist(), module.teacher_memory.tolist()]
    anchors = [projected(module.student_projection, student), projected(module.teacher_projection, teacher)]
    num_images, num_negatives = module.num_images, module.settings.num_negatives
    temperature, momentum = module.settings.temperature, module.settings.momentum
    noise = num_negatives / num_images
    loss = 0.0
    for side in (0, 1):
        scores = [
            [
                math.exp(sum(a * b for a, b in zip(anchor, memories[1 - side][k], strict=True)) / temperature)
                for k in [index, *row]
            ]
            for anchor, index, row in zip(anchors[side], indices.tolist(), negatives.tolist(), strict=True)
        ]
        z = sum(map(sum, scores)) / (len(scores) * (num_negatives + 1)) * num_images
        for positive, *others in scores:
            loss -= math.log(positive / z / (positive / z + noise)) / len(scores)
            loss -= sum(math.log(noise / (other / z + noise)) for other in others) / len(scores)
    for side in (0, 1):
        for anchor, index in zip(anchors[side], indices.tolist(), strict=True):
            old = memories[side][index]
            moved = [momentum * a + (1 - momentum) * b for a, b in zip(old, anchor, strict=True)]
            memories[side][index] = [value / math.hypot(*moved) for value in moved]
    return loss, memories


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, None])
def test_a_step_is_the_definition(labels):
    module, (student, teacher) = build(labels=labels), embeddings()
    negatives, _ = module.draw_negatives(INDICES, torch.arange(4))
    expected, memories = naive_step(module, student, teacher, INDICES, negatives)
    assert module(student, teacher, INDICES).item() == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(module.student_memory, torch.tensor(memories[0], dtype=torch.float64))
    torch.testing.assert_close(module.teacher_memory, torch.tensor(memories[1], dtype=torch.float64))


def test_noise_contrastive_estimation_is_the_formula():
    positive, negative = torch.rand(3, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
    noise = 5 / 40
    naive = -(positive / (positive + noise)).log().sum() - (noise / (negative + noise)).log().sum()
    torch.testing.assert_close(contrastive_loss(positive.log(), negative.log(), 40), naive / 3)


def test_noise_contrastive_estimation_stays_finite_far_from_the_middle():
    logits = torch.tensor([-300.0, 300.0], requires_grad=True)
    loss = contrastive_loss(logits, torch.tensor([[300.0], [-300.0]]), 100)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_gradient():
    module, (student, teacher) = build(), embeddings()
    module(student, teacher, INDICES)  # sets Z, which is a constant to the gradient
    module.eval()
    torch.autograd.gradcheck(lambda values: module(values, teacher, INDICES), student.requires_grad_())


def test_gradients_reach_the_student_and_both_projections_but_not_the_teacher():
    module, (student, teacher) = build(), embeddings()
    module(student.requires_grad_(), teacher.requires_grad_(), INDICES).backward()
    assert student.grad is not None and teacher.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_float32_under_autocast():
    module, (student, teacher) = build().float().eval(), embeddings(dtype=torch.float32)
    expected = module(student, teacher, INDICES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(student, teacher, INDICES), expected)


def test_training_brings_student_and_teacher_together():
    torch.manual_seed(0)
    module = ContrastiveDistillation(8, 6, 40, settings=ContrastiveSettings(8, 20), seed=1)
    images = torch.randn(40, 10)
    student, teacher = torch.nn.Linear(10, 8), torch.nn.Linear(10, 6).requires_grad_(False)
    optimiser = torch.optim.Adam([*student.parameters(), *module.parameters()], lr=0.02)
    losses = []
    for step in range(150):
        indices = torch.arange(20) + 20 * (step % 2)
        loss = module(student(images[indices]), teacher(images[indices]), indices)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    similarity = torch.nn.functional.normalize(module.student_projection(student(images)))
    similarity = similarity @ torch.nn.functional.normalize(module.teacher_projection(teacher(images))).T
    assert (similarity.argmax(1) == torch.arange(40)).float().mean() > 0.8  # the student's picks its own teacher's


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_negatives_are_of_other_classes_and_all_of_them_are_drawn_alike():
    module = build(num_negatives=4000)
    negatives, _ = module.draw_negatives(INDICES, torch.arange(4))
    for index, row in zip(INDICES.tolist(), negatives, strict=True):
        others = LABELS.ne(LABELS[index]).nonzero().squeeze(1)
        counts = row.bincount(minlength=12)
        assert counts.sum() == counts[others].sum()
        expected = 4000 / len(others)
        # chi-squared with at most 8 degrees of freedom: 40 is passed once in 300,000 times
        assert ((counts[others] - expected) ** 2 / expected).sum() < 40


def test_without_labels_an_image_is_not_its_own_negative():
    negatives, _ = build(labels=None, num_negatives=2000).draw_negatives(INDICES, torch.arange(4))
    for index, row in zip(INDICES.tolist(), negatives, strict=True):
        assert set(row.tolist()) == set(range(12)) - {index}


def test_draws_hang_on_seed_and_position_alone():
    module = build()
    positions = torch.tensor([10, 11, 12, 13])
    whole, _ = module.draw_negatives(INDICES, positions)
    parts = [module.draw_negatives(INDICES[part], positions[part])[0] for part in (slice(2), slice(2, 4))]
    assert torch.equal(whole, torch.cat(parts))  # as on two processes
    assert not torch.equal(whole, module.draw_negatives(INDICES, positions + 4)[0])
    assert not torch.equal(whole, build(seed=4).draw_negatives(INDICES, positions)[0])


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
@pytest.mark.parametrize("position", [0, 11, 2**40 + 7])
def test_draws_are_the_words_of_splitmix64_in_numpy(seed, position):
    settings = ContrastiveSettings(projection_size=1, num_negatives=500, shared_negatives=True)
    module = ContrastiveDistillation(5, 3, 65_537, settings=settings, seed=seed)
    drawn, _ = module.draw_negatives(INDICES, torch.full((4,), position))
    key = mix64(np.array([position], np.uint64) * GOLDEN_GAMMA + np.uint64(seed))
    words = mix64(key + np.arange(1, 501, dtype=np.uint64) * GOLDEN_GAMMA) >> np.uint64(1)
    np.testing.assert_array_equal(drawn.numpy().astype(np.uint64), words % np.uint64(65_537))


def test_one_seed_one_run_whatever_the_global_generator():
    runs = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        module = build()
        runs.append([module(*embeddings(step), INDICES).item() for step in range(3)])
        expected = torch.rand(1)
        torch.manual_seed(global_seed)
        assert torch.equal(torch.rand(1), expected)  # and the global generator was not touched
    assert runs[0] == runs[1] and len(set(runs[0])) == 3


def test_shared_negatives_leave_out_an_images_own_class():
    module, (student, teacher) = build(shared_negatives=True, num_negatives=30).eval(), embeddings()
    negatives, is_own = module.draw_negatives(INDICES, torch.arange(4))
    assert is_own is not None
    assert negatives.shape == (30,) and torch.equal(is_own, LABELS[negatives][None] == LABELS[INDICES][:, None])
    loss = module(student.requires_grad_(), teacher, INDICES)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()
    # An image's own class may move as it likes: with Z fixed, nothing changes for that image.
    module.is_normalized.fill_(True)
    module.log_normalizer.fill_(3.0)
    first = module(student[:1], teacher[:1], INDICES[:1])
    own = (LABELS.eq(LABELS[INDICES[0]]) & torch.arange(12).ne(INDICES[0])).nonzero().squeeze(1)
    module.teacher_memory[own] = 0.5
    module.student_memory[own] = 0.5
    torch.testing.assert_close(module(student[:1], teacher[:1], INDICES[:1]), first)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_evaluation_changes_nothing():
    module = build().eval()
    before = copy.deepcopy(module.state_dict())
    module(*embeddings(), INDICES)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_z_is_set_once():
    module = build()
    module(*embeddings(0), INDICES)
    first = module.log_normalizer.clone()
    module(*embeddings(1), INDICES)
    assert bool(module.is_normalized) and torch.equal(module.log_normalizer, first)


def test_an_image_twice_in_a_batch_is_remembered_as_it_came_last():
    student, teacher = embeddings()
    twice, once = build(), build()
    twice(student, teacher, torch.tensor([7, 0, 7, 11]))
    once(student[1:], teacher[1:], torch.tensor([0, 7, 11]))
    torch.testing.assert_close(twice.student_memory, once.student_memory)
    torch.testing.assert_close(twice.teacher_memory, once.teacher_memory)


def test_a_checkpoint_continues_the_run_to_the_bit():
    module = build()
    for step in range(2):
        module(*embeddings(step), INDICES)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    resumed = build()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(2, 4):
        assert torch.equal(module(*embeddings(step), INDICES), resumed(*embeddings(step), INDICES))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in module.state_dict().items())


def test_two_halves_with_gathered_rows_are_the_whole_batch():
    student, teacher = embeddings()
    whole, half = build(), build()
    whole_loss = whole(student, teacher, INDICES, torch.arange(4))
    # What the other process would add: recorded from a first pass over both halves, in the order of the calls.
    calls: list[list[torch.Tensor]] = []
    for part in (slice(2), slice(2, 4)):
        seen: list[torch.Tensor] = []
        recorder = build()
        recorder.gather_rows = lambda rows, seen=seen: (seen.append(rows), rows)[1]
        recorder(student[part], teacher[part], INDICES[part], torch.arange(4)[part])
        calls.append(seen)
    gathered = [torch.cat(pair) for pair in zip(*calls, strict=True)]
    losses = []
    for part in (slice(2), slice(2, 4)):
        half = build()
        answers = iter(gathered)
        half.gather_rows = lambda rows, answers=answers: next(answers)
        losses.append(half(student[part], teacher[part], INDICES[part], torch.arange(4)[part]))
        torch.testing.assert_close(half.student_memory, whole.student_memory)
        torch.testing.assert_close(half.log_normalizer, whole.log_normalizer)
    torch.testing.assert_close(torch.stack(losses).mean(), whole_loss)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"momentum": 1.0}, "momentum"),
        ({"num_negatives": 0}, "num_negatives of at least 1"),
        ({"projection_size": 0}, "projection_size"),
        ({"seed": -1}, "seed"),
        ({"labels": LABELS[:5]}, "one int64 label for each of 12 images"),
        ({"labels": torch.zeros(12, dtype=torch.int64)}, "same label"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        build(**settings)


def test_a_batch_is_checked():
    module, (student, teacher) = build(), embeddings()
    with pytest.raises(InputError, match=r"student embeddings have 4 values, but CRD was built for 5"):
        module(student[:, :4], teacher, INDICES)
    with pytest.raises(InputError, match=r"^teacher embeddings have 2 values, but CRD was built for"):
        module(student, teacher[:, :2], INDICES)
    with pytest.raises(InputError, match=r"image index 12 is outside \[0, 12\)"):
        module(student, teacher, INDICES + 1)
    with pytest.raises(InputError, match=r"image index -1 is outside \[0, 12\)"):
        module.check_indices(INDICES - 1)
    with pytest.raises(InputError, match="indices as int64"):
        module(student, teacher, INDICES[:3])
    with pytest.raises(InputError, match="positions as int64"):
        module(student, teacher, INDICES, torch.arange(4.0))
    with pytest.raises(InputError, match="contrasts images"):
        ContrastiveDistillation(5, 3, 1)
    with pytest.raises(InputError, match="student_size of at least 1, found 0"):
        ContrastiveDistillation(0, 3, 12)
    with pytest.raises(InputError, match="teacher_size of at least 1, found 0"):
        ContrastiveDistillation(5, 0, 12)
    with pytest.raises(InputError, match="contrastive_loss needs"):
        contrastive_loss(torch.zeros(3), torch.zeros(4, 2), 10)


def test_projections_start_as_torchs_linear_layers_do_and_memories_with_rows_of_about_length_1():
    module = ContrastiveDistillation(400, 100, 300)
    for layer, bound in ((module.student_projection, 1 / 20), (module.teacher_projection, 1 / 10)):
        assert layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(layer.weight.mean().item()) < bound / 50
    for memory in (module.student_memory, module.teacher_memory):
        assert memory.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)
        assert abs(memory.mean().item()) < 0.01
