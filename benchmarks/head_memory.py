"""Calculates the memory of a classifier that is shared out over GPUs, from the sizes alone."""

from __future__ import annotations

from facekd.head.chunked_loss import CHUNK_ELEMENTS


def head_bytes(classes: int, gpus: int, images_each: int, embedding_size: int, buffers: int = 1) -> int:
    """Returns the bytes that a process holds: its classes, a chunk of scores, and the embeddings of all processes.

    Args:
        classes: C.
        gpus: processes that share them.
        images_each: images of a process in a step.
        embedding_size: D.
        buffers: tensors of the optimiser for each weight: 1 for SGD with momentum, 2 for AdamW.
    """
    everyone, own = images_each * gpus, -(-classes // gpus)
    # Scores, exponentials, gradient.
    chunk = min(own, max(256, CHUNK_ELEMENTS["cuda"] // everyone)) * everyone * 4 * 4
    # Embeddings and their gradients, raw and normalised.
    gathered = 4 * everyone * embedding_size * 4
    return (2 + buffers) * own * embedding_size * 4 + chunk + gathered
