"""Measures memory and time of a step of a head of very many classes, beside the usual form and a lower bound.

A step is forward and backward of the losses, from embeddings to the gradients of embeddings and student weight, without
backbone and optimiser. Two sets of losses are measured, each chunk by chunk as in facekd and from whole matrices:

    ce       ArcFace cross-entropy of one trainable head. The usual form is the most used head (`usual_model.py`): it
             normalises the centres, turns all cosines to angles and back in place and hidden from autograd, and takes
             the softmax of the whole matrix
    distil   the same, KL to the teacher, and cross-entropy and KL of the student on the teacher's frozen head. The
             usual form computes each matrix once and frees what it no longer needs

Each measurement is a fresh process. Its memory is the peak of resident memory during the step minus that just before
it, when the weights exist and a small step has started threads and libraries; `working` also leaves out the gradient of
the weight, which every form must return. Forms take turns, so that other load on the machine falls on both. On a GPU,
the default if there is one, memory is that of torch's allocator, and the clock waits for the device.

The floor is a lower bound for every form, the longer of two times: the products of forward and backward (6 B C D
operations for a trained head, 4 for a frozen one and 2 for the teacher's logits) at the rate of large square products
on this machine; or reading the weights twice and writing the gradient once, at the rate of large copies. Both rates are
measured in the same run. Products are in float32; on a GPU add `--product autocast` for bfloat16.

    python benchmarks/large_head.py
    python benchmarks/large_head.py --classes 93431 --embedding-size 512 --batch-size 128 1024 --cases ce
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measuring import Table, ratios, report, reset_peak, spread, status_bytes, take_turns, wait_for
from torch import Tensor
from torch.nn import functional as F
from usual_model import usual_cosine, usual_cross_entropy

from facekd.errors import FacekdError, run_verb
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import MarginClassifier
from facekd.head.config import HeadConfig
from facekd.head.loss_terms import KL, CrossEntropy, LazyLogits
from facekd.utils.progress import track
from facekd.utils.wording import counted

FORMS = ("usual", "chunked")
CASES = ("ce", "distil")
WEIGHTS = (1.0, 1.5, 1.0, 0.02)  # of the losses in their sum
TEMPERATURE = 4.0
# Operations of a step, in units of B C D: forward, backward to the embeddings, and to the weight if it is trained.
OPERATIONS = {"ce": 6, "distil": 6 + 4 + 2}
HEADS = {"ce": 1, "distil": 2}


def whole_kl(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Computes the KL loss from whole (B, C) matrices: the usual side's, restated."""
    student_BC, teacher_BC = (F.log_softmax(logits / TEMPERATURE, 1) for logits in (student_BC, teacher_BC))
    return F.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True) * TEMPERATURE**2


def usual_losses(
    case: str, own: MarginClassifier, frozen: MarginClassifier, embedding: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Computes the losses of a case from whole matrices."""
    half = torch.bfloat16 if own.config.product == "autocast" else None
    if case == "ce":
        return (
            usual_cross_entropy(embedding, own.weight, labels, own.config.margin_arguments["margin"], own.scale, half),
        )
    cosine = usual_cosine(embedding, own.weight, half)
    ce = F.cross_entropy(own.apply_margin(cosine, labels, embedding) * own.scale, labels)
    with torch.no_grad():
        teacher_logits = usual_cosine(teacher, frozen.weight, half) * frozen.scale
    kl = whole_kl(cosine * own.scale, teacher_logits)
    cosine = usual_cosine(embedding, frozen.weight, half)
    th_ce = F.cross_entropy(frozen.apply_margin(cosine, labels, embedding) * frozen.scale, labels)
    return ce, kl, th_ce, whole_kl(cosine * frozen.scale, teacher_logits)


def losses_in_chunks(
    case: str, own: MarginClassifier, frozen: MarginClassifier, embedding: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Computes the losses of a case chunk by chunk, as facekd trains."""
    own_logits = LazyLogits.of(own, embedding)
    if case == "ce":
        return chunked_losses([CrossEntropy(own_logits)], labels)
    shared, taught = LazyLogits.of(frozen, embedding), LazyLogits.of(frozen, teacher)
    terms = [
        CrossEntropy(own_logits),
        KL(own_logits, taught, TEMPERATURE),
        CrossEntropy(shared),
        KL(shared, taught, TEMPERATURE),
    ]
    return chunked_losses(terms, labels)


def norm(gradient: Tensor | None) -> Tensor:
    """Returns the norm of a gradient, which must exist."""
    assert gradient is not None
    return gradient.norm()


def measure(case: str, form: str, sizes: Sequence[int], steps: int, product: str, device: torch.device) -> dict:
    """Measures one form in this process: seconds of each step after the first, peak memory of all, and the losses."""
    batch_size, embedding_size, num_classes = sizes
    losses_of = usual_losses if form == "usual" else losses_in_chunks
    config = HeadConfig(gradient="straight_through", product=product)  # type: ignore[arg-type]
    torch.manual_seed(0)

    def head(classes: int) -> MarginClassifier:
        return MarginClassifier(embedding_size, classes, config).to(device)

    def step(own: MarginClassifier, frozen: MarginClassifier) -> tuple[float, tuple[float, ...]]:
        generator = torch.Generator().manual_seed(1)
        embedding = torch.randn(batch_size, embedding_size, generator=generator)
        teacher = (embedding + torch.randn(batch_size, embedding_size, generator=generator)).to(device)
        labels = torch.randint(own.num_classes, (batch_size,), generator=generator).to(device)
        embedding = embedding.to(device).requires_grad_()
        own.weight.grad = None
        wait_for(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=product == "autocast" and form == "chunked"):
            losses = losses_of(case, own, frozen, embedding, teacher, labels)
        torch.stack([weight * loss for weight, loss in zip(WEIGHTS, losses, strict=False)]).sum().backward()
        wait_for(device)
        seconds = time.perf_counter() - start
        gradients = [embedding.grad, own.weight.grad]
        return seconds, tuple(float(number) for number in (*(loss.detach() for loss in losses), *map(norm, gradients)))

    # A small step starts threads and libraries, so that their memory is not counted.
    step(head(300), head(300).requires_grad_(False))
    own = head(num_classes)
    frozen = head(num_classes if case == "distil" else 1).requires_grad_(False)

    # Memory is counted from here, when the weights exist.
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_gpu else reset_peak()
    found = [step(own, frozen) for _ in range(steps + 1)]
    memory = (torch.cuda.max_memory_allocated() if is_gpu else status_bytes("VmHWM")) - before
    return {"seconds": [seconds for seconds, _ in found[1:]], "bytes": memory, "numbers": found[-1][1]}


def machine_rates(product: str, device: torch.device) -> dict[str, float]:
    """Measures the operations a second of large products and the bytes a second of large copies, each the best of 5."""
    dtype = torch.bfloat16 if product == "autocast" else torch.float32
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            wait_for(device)
            start = time.perf_counter()
            work()
            wait_for(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    return {
        "operations": 2 * size**3 / best(lambda: left @ right),
        "bytes": 2 * source.numel() * 4 / best(lambda: target.copy_(source)),
    }


def floor_seconds(case: str, sizes: Sequence[int], rates: dict[str, float]) -> float:
    """Returns the lower bound for the time of a step."""
    batch_size, embedding_size, num_classes = sizes
    operations = OPERATIONS[case] * batch_size * embedding_size * num_classes
    weight = 4 * embedding_size * num_classes
    return max(operations / rates["operations"], (2 * HEADS[case] + 1) * weight / rates["bytes"])


def in_fresh_process(*arguments: object) -> dict:
    """Runs this file with the given arguments and returns the JSON it prints."""
    words = [sys.executable, __file__, *map(str, arguments)]
    finished = subprocess.run(words, capture_output=True, text=True)
    if finished.returncode:
        raise FacekdError(f"a measurement failed: {finished.stderr.strip()[-600:]}")
    return json.loads(finished.stdout)


def compare(case: str, sizes: tuple[int, int, int], args: argparse.Namespace) -> dict:
    """Measures both forms in turns, each in a fresh process."""
    options = ("--threads", args.threads, "--device", args.device, "--product", args.product, "--steps", args.steps)
    sides = {form: lambda form=form: in_fresh_process("--measure", case, form, *sizes, *options) for form in FORMS}
    found = take_turns(sides, args.rounds)
    gradient_bytes = 4 * sizes[1] * sizes[2]
    row: dict = {"case": case, "sizes": sizes}
    for form in FORMS:
        peak = statistics.median(result["bytes"] for result in found[form])
        row[form] = {
            "seconds": [result["seconds"] for result in found[form]],
            "median_s": [statistics.median(result["seconds"]) for result in found[form]],
            "peak_bytes": peak,
            "working_bytes": max(peak - gradient_bytes, 0),
        }
    numbers = [found[form][0]["numbers"] for form in FORMS]
    row["largest_relative_difference"] = max(abs(a - b) / abs(a) for a, b in zip(*numbers, strict=True))
    return row


COLUMNS = (
    *("losses", "B", "D", "C", "time over the usual", "time over the floor", "ms", "usual, ms", "floor, ms"),
    *("peak memory over the usual", "peak, MB", "usual, MB", "working, MB", "usual, MB", "differs by"),
)


def cells(row: dict, rates: dict[str, float]) -> list[str]:
    """Formats a result as a row under COLUMNS."""
    ours, usual, floor = row["chunked"], row["usual"], floor_seconds(row["case"], row["sizes"], rates)
    return [
        row["case"],
        *(f"{size:,}" for size in row["sizes"]),
        spread(ratios(ours["median_s"], usual["median_s"])),
        spread([seconds / floor for seconds in ours["median_s"]], 1),
        *(
            f"{1e3 * seconds:,.0f}"
            for seconds in (*map(statistics.median, (ours["median_s"], usual["median_s"])), floor)
        ),
        f"{ours['peak_bytes'] / usual['peak_bytes']:.2f}",
        *(f"{form[name] / 1e6:,.0f}" for name in ("peak_bytes", "working_bytes") for form in (ours, usual)),
        f"{row['largest_relative_difference']:.1g}",
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 93_431, 360_232])
    parser.add_argument("--embedding-size", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128])
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--product", choices=("float32", "autocast"), default="float32", help="see `head.product`")
    parser.add_argument(
        "--steps", type=int, default=3, help="timed steps of each process, after one to warm up (default: 3)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help=f"default here: {device}")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.measure:  # a process that `in_fresh_process` started
        case, form, *sizes = args.measure
        print(json.dumps(measure(case, form, list(map(int, sizes)), args.steps, args.product, device)))
        return 0

    # Measure the machine's rates for the floor, then every case at every size.
    rates = machine_rates(args.product, device)
    all_sizes = itertools.product(args.batch_size, args.embedding_size, args.classes)
    jobs = [(case, sizes) for sizes in all_sizes for case in args.cases]
    found = [compare(case, sizes, args) for case, sizes in track(jobs, "measuring heads", len(jobs))]
    where = torch.cuda.get_device_name() if args.device == "cuda" else counted(args.threads, "thread")
    title = (
        f"Heads of many classes, {where}, products in {args.product}, {counted(args.rounds, 'round')} of "
        f"{counted(args.steps, 'step')}; floor at {rates['operations'] / 1e9:,.0f} G operations/s and "
        f"{rates['bytes'] / 1e9:,.1f} GB/s"
    )
    table = Table(title, COLUMNS, [cells(row, rates) for row in found])
    report([table], args.json, rates=rates, rows=found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
