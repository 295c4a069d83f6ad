"""What a classifier of very many classes costs, computed in chunks beside the naive form: memory and time of a step.

A step is forward and backward of the losses, from embeddings to the gradients of embeddings and student weight: no
backbone, no optimiser. Two sets of losses:

    ce       ArcFace cross-entropy of one trainable head
    distil   that, KL to the teacher, and cross-entropy and KL of the student on the teacher's frozen head

Each measurement is a fresh process. Its memory is the peak of resident memory during the step over that just before
it, when the weights exist and a small step has woken threads and libraries; `working` leaves out the gradient of the
weight as well, which every form must hand back. Forms take turns, so that another program's load hits both alike.
On a GPU, which is taken where there is one, memory is that of torch's allocator, and the clock waits for the device.

    python benchmarks/large_head.py
    python benchmarks/large_head.py --classes 93431 --embedding-size 512 --batch-size 64 --rounds 5 --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from facekd.chunked_loss import KL, CrossEntropy, LazyLogits, chunked_losses
from facekd.classifier import MarginClassifier
from facekd.files import write_json

FORMS = ("naive", "chunked")
CASES = ("ce", "distil")
WEIGHTS = (1.0, 1.5, 1.0, 0.02)
TEMPERATURE = 4.0


def naive_kl(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    student_BC, teacher_BC = (F.log_softmax(logits / TEMPERATURE, 1) for logits in (student_BC, teacher_BC))
    return F.kl_div(student_BC, teacher_BC, reduction="batchmean", log_target=True) * TEMPERATURE**2


def naive_losses(
    case: str, own: MarginClassifier, frozen: MarginClassifier, embedding: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """The same numbers from whole matrices, each product made once and what is not needed any more let go."""
    cosine = own.cosine(embedding)
    ce = F.cross_entropy(own.apply_margin(cosine, labels, embedding) * own.scale, labels)
    if case == "ce":
        return (ce,)
    with torch.no_grad():
        teacher_logits = frozen.cosine(teacher) * frozen.scale
    kl = naive_kl(cosine * own.scale, teacher_logits)
    cosine = frozen.cosine(embedding)
    th_ce = F.cross_entropy(frozen.apply_margin(cosine, labels, embedding) * frozen.scale, labels)
    return ce, kl, th_ce, naive_kl(cosine * frozen.scale, teacher_logits)


def losses_in_chunks(
    case: str, own: MarginClassifier, frozen: MarginClassifier, embedding: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
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


def length(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.norm()


def reset_peak() -> int:
    """Resident bytes now; from here on `peak` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def measure(
    case: str, form: str, batch_size: int, embedding_size: int, num_classes: int, steps: int, device: torch.device
) -> dict:
    """One process: seconds of each step after the first, memory of them all, and the losses."""
    losses_of = naive_losses if form == "naive" else losses_in_chunks
    torch.manual_seed(0)

    def head(classes: int) -> MarginClassifier:
        return MarginClassifier(embedding_size, classes).to(device)

    def step(own: MarginClassifier, frozen: MarginClassifier) -> tuple[float, tuple[float, ...]]:
        generator = torch.Generator().manual_seed(1)
        embedding = torch.randn(batch_size, embedding_size, generator=generator)
        teacher = (embedding + torch.randn(batch_size, embedding_size, generator=generator)).to(device)
        labels = torch.randint(own.num_classes, (batch_size,), generator=generator).to(device)
        embedding = embedding.to(device).requires_grad_()
        own.weight.grad = None
        wait_for(device)
        start = time.perf_counter()
        losses = losses_of(case, own, frozen, embedding, teacher, labels)
        torch.stack([weight * loss for weight, loss in zip(WEIGHTS, losses, strict=False)]).sum().backward()
        wait_for(device)
        seconds = time.perf_counter() - start
        gradients = [embedding.grad, own.weight.grad]
        return seconds, tuple(
            float(number) for number in (*(loss.detach() for loss in losses), *map(length, gradients))
        )

    step(head(300), head(300).requires_grad_(False))
    own = head(num_classes)
    frozen = head(num_classes if case == "distil" else 1).requires_grad_(False)

    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_gpu else reset_peak()
    found = [step(own, frozen) for _ in range(steps + 1)]
    memory = (torch.cuda.max_memory_allocated() if is_gpu else status_bytes("VmHWM")) - before
    return {"seconds": [seconds for seconds, _ in found[1:]], "bytes": memory, "numbers": found[-1][1]}


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def in_fresh_process(*arguments: str) -> dict:
    finished = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(finished.stdout)


def compare(case: str, batch_size: int, embedding_size: int, num_classes: int, args: argparse.Namespace) -> dict:
    results: dict[str, list[dict]] = {form: [] for form in FORMS}
    for _ in range(args.rounds):
        for form in FORMS:
            arguments = (case, form, batch_size, embedding_size, num_classes, args.steps)
            options = ("--threads", str(args.threads), "--device", args.device)
            results[form].append(in_fresh_process(*map(str, arguments), *options))
    gradient_bytes = num_classes * embedding_size * 4
    row: dict = {"case": case, "batch": batch_size, "embedding": embedding_size, "classes": num_classes}
    for form in FORMS:
        seconds = [second for result in results[form] for second in result["seconds"]]
        memory = [result["bytes"] for result in results[form]]
        row[form] = {
            "seconds": seconds,
            "median_s": statistics.median(seconds),
            "bytes": memory,
            "peak_bytes": statistics.median(memory),
            "working_bytes": max(statistics.median(memory) - gradient_bytes, 0),
        }
    row["largest_relative_difference"] = max(
        abs(a - b) / abs(a) for a, b in zip(*(results[form][0]["numbers"] for form in FORMS), strict=True)
    )
    row["rounds_time_ratio"] = [
        statistics.median(b["seconds"]) / statistics.median(a["seconds"])
        for a, b in zip(*results.values(), strict=True)
    ]
    for name in ("median_s", "peak_bytes", "working_bytes"):
        row[f"{name}_ratio"] = row["chunked"][name] / row["naive"][name]
    return row


HEADER = (
    f"{'losses':7} {'B':>4} {'D':>4} {'C':>7} | {'time ms: naive':>22} {'chunked':>22} {'ratio (of rounds)':>19} | "
    f"{'peak MB':>13} {'ratio':>5} | {'working MB':>13} {'ratio':>5} | {'differs by':>9}"
)


def line_of(row: dict) -> str:
    def times(form: str) -> str:
        seconds = [1000 * second for second in row[form]["seconds"]]
        return f"{1000 * row[form]['median_s']:.0f} ({min(seconds):.0f}..{max(seconds):.0f})"

    def megabytes(name: str) -> str:
        return f"{row['naive'][name] / 1e6:.0f} > {row['chunked'][name] / 1e6:.0f}"

    rounds = row["rounds_time_ratio"]
    ratio = f"{row['median_s_ratio']:.2f} ({min(rounds):.2f}..{max(rounds):.2f})"
    return (
        f"{row['case']:7} {row['batch']:4} {row['embedding']:4} {row['classes']:7} | {times('naive'):>22} "
        f"{times('chunked'):>22} {ratio:>19} | {megabytes('peak_bytes'):>13} {row['peak_bytes_ratio']:5.2f} | "
        f"{megabytes('working_bytes'):>13} {row['working_bytes_ratio']:5.2f} | "
        f"{row['largest_relative_difference']:9.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 93_431, 360_232])
    parser.add_argument("--embedding-size", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128])
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--steps", type=int, default=3, help="timed steps a process, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="processes a form")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help=f"default here: {device}")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        case, form, *sizes = args.measure
        print(json.dumps(measure(case, form, *map(int, sizes), device=torch.device(args.device))))
        return

    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"torch {torch.__version__}, {where}, float32; median (lowest..highest), chunked / naive")
    print(HEADER)
    rows = []
    for embedding_size in args.embedding_size:
        for batch_size in args.batch_size:
            for num_classes in args.classes:
                for case in args.cases:
                    rows.append(compare(case, batch_size, embedding_size, num_classes, args))
                    print(line_of(rows[-1]), flush=True)
    if args.json:
        write_json(args.json, {"torch": torch.__version__, "where": where, "threads": args.threads, "rows": rows})


if __name__ == "__main__":
    main()
