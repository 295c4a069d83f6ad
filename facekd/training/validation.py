"""Validates during training: defines what a validator is, and calls the validators of a run.

The benchmarks themselves belong to the evaluation harness, which passes them in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from facekd.backbones import fold_batch_norms
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.run_folder import checkpoint_path
from facekd.commands.plain_configs import to_plain
from facekd.distributed import AMP_DTYPES, broadcast_from_main, copy_buffers_from_main, gather_rows
from facekd.embedder import TorchEmbedder
from facekd.errors import CheckpointError
from facekd.images.preprocessing import Preprocessing
from facekd.training.logbook import Logbook
from facekd.training.resume import save_state
from facekd.training.state import TrainingState

BATCH_SIZE = {"cuda": 256}  # enough to keep a GPU busy; elsewhere the embedder chooses


class Validator(Protocol):
    """Measures embeddings during training. It is called on every rank and divides the images among the ranks."""

    name: str

    def __call__(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        rank: int,
        world_size: int,
        all_gather: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, float]:
        """Returns named results, among them `accuracy` (0 to 1), the same on every rank.

        Args:
            embed: uint8 RGB (B, S, S, 3) to embeddings (B, D).
            rank: rank of this process.
            world_size: number of processes.
            all_gather: concatenates the rows of every rank, in rank order.
        """
        ...


@runtime_checkable
class HeadValidator(Protocol):
    """Measures classifiers during training; called like a `Validator`, and also given their predictions."""

    name: str

    def measure_heads(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        predict: Callable[[np.ndarray], dict[str, np.ndarray]],
        rank: int,
        world_size: int,
        all_gather: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, float]:
        """Returns named results, among them `accuracy` (0 to 1), the same on every rank.

        Args:
            embed: see `Validator`.
            predict: embeddings (B, D) to the probabilities (B, C) of each classifier; the first is the one to use.
            rank: rank of this process.
            world_size: number of processes.
            all_gather: see `Validator`.
        """
        ...


def validate(state: TrainingState, validators: Sequence[Validator | HeadValidator], logbook: Logbook) -> None:
    """Runs the validators on every rank, logs their results and the time; keeps `best.pt` by their mean accuracy."""
    started = time.perf_counter()
    world = state.world
    # Since the last step each rank has its own batch statistics. Evaluate what will be saved: the main process's.
    copy_buffers_from_main(state.evaluated, world)
    embedder = evaluated_embedder(state)

    def gather(rows: np.ndarray) -> np.ndarray:
        return gather_rows(rows, world)

    @torch.inference_mode()
    def predict(embeddings: np.ndarray) -> dict[str, np.ndarray]:
        found = state.recognizer.predictions(torch.from_numpy(embeddings).to(world.device))
        return {name: probabilities.cpu().numpy() for name, probabilities in found.items()}

    # Every rank runs every validator, each on its share of the images.
    results = {
        validator.name: validator.measure_heads(embedder.embed, predict, world.rank, world.size, gather)
        if isinstance(validator, HeadValidator)
        else validator(embedder.embed, world.rank, world.size, gather)
        for validator in validators
    }
    seconds = time.perf_counter() - started
    # All ranks take the main process's accuracy: on unlike machines theirs may differ in the last bit, and so would the
    # decision to save.
    accuracy = broadcast_from_main(math.fsum(result["accuracy"] for result in results.values()) / len(results), world)

    # Log, and keep the checkpoint if it is the best so far.
    flat = {f"{name}/{key}": value for name, result in results.items() for key, value in result.items()}
    logbook.record("validation", state.images_seen, {**flat, "seconds": round(seconds, 2)})
    for name, result in results.items():
        shown = "  ".join(f"{key} {value:.4f}" for key, value in result.items())
        logbook.say(f"{state.images_seen:>11,}  {name}: {shown}")
    logbook.say(f"{state.images_seen:>11,}  validation took {seconds:.1f} s")
    if accuracy > state.best_accuracy:
        state.best_accuracy = accuracy
        save_state(state, "best")


def forget_best_of_other_sets(state: TrainingState) -> None:
    """Starts the search for the best checkpoint anew, with a warning, where validation measures something else now.

    An accuracy of one pack says nothing beside that of another: of a harder one, no checkpoint would be the best again.
    """
    wanted = _measured(to_plain(state.config)["validation"])
    if state.best_accuracy < 0 or not wanted:
        return
    why = broadcast_from_main(_why_not_best(state, wanted) if state.world.is_main else "", state.world)
    if why:
        state.dataset.warnings.append(why)
        state.best_accuracy = -1.0


def _why_not_best(state: TrainingState, wanted: list[Any]) -> str:
    """Says why best.pt does not have the best accuracy of what is measured now; empty if it has, or nobody can tell."""
    file = checkpoint_path(state.folder, 0).with_stem("best")
    if not file.exists():
        return (
            f"best.pt, with the best accuracy, {state.best_accuracy:.4f}, is gone; the next validation writes another"
        )

    # What the accuracy is of says the checkpoint that has it: the newest may be of a run that measured nothing.
    try:
        best = read_checkpoint(file)
    except (CheckpointError, OSError):
        return ""
    if wanted != _measured(best.config.get("validation")):
        return (
            f"best.pt has the best accuracy, {state.best_accuracy:.4f}, of another validation than is asked for now; "
            "the next validation replaces it: move it, if it is still wanted"
        )
    # A run killed between its validation and its checkpoint goes on from one that knows the earlier validation alone.
    if best.training is not None and best.training.best_accuracy < state.best_accuracy:
        return (
            f"best.pt has the accuracy {best.training.best_accuracy:.4f}, and the best one so far, "
            f"{state.best_accuracy:.4f}, is of another validation; the next validation replaces best.pt"
        )
    return ""


def _measured(validation: Any) -> list[Any]:
    """Returns what a plain `validation` section measures, wherever its packs lie; empty for nothing."""
    found = validation if isinstance(validation, dict) else {}
    packs, kind = found.get("packs"), found.get("classification", "none")
    names = sorted(Path(str(pack)).name for pack in packs) if isinstance(packs, list) else []
    return [names, kind, bool(names) and found.get("flip", True)] if names or kind != "none" else []


def evaluated_embedder(state: TrainingState) -> TorchEmbedder:
    """Wraps the model that would be exported for embedding images of the run's size on the run's device."""
    config, world = state.config, state.world
    return TorchEmbedder(
        # Folding is a tenth faster. A compiled model is used as it is: its folded copy would be compiled anew.
        state.evaluated if config.compile and state.ema is None else fold_batch_norms(state.evaluated),
        Preprocessing(config.data.mean, config.data.std, "rgb", config.data.image_size),
        world.device,
        batch_size=BATCH_SIZE.get(world.device.type),
        autocast=AMP_DTYPES[config.precision],
        resize=config.data.resize,
    )
