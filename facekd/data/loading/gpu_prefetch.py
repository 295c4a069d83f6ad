"""Sends a batch to the GPU while the one before it is trained on, through page-locked memory and a separate stream."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekd.data.loading.batch import Batch


class GpuPrefetcher:
    """Sends batches to a GPU: one thread calls `send_next`, the thread that uses the batches calls `arrived`.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)

    def send_next(self, batches: Iterator[Batch]) -> tuple[Batch, torch.Event] | None:
        """Starts copying the next batch; returns it with the event of its arrival, or None after the last."""
        batch = next(batches, None)
        if batch is None:
            return None
        # Each thread has its own current device, at first GPU 0, and locking pages would initialise that one too.
        torch.cuda.set_device(self._device)
        # Only copies from page-locked memory run in the background; torch keeps that memory until the copy is done.
        pinned = Batch(*(tensor.pin_memory() for tensor in batch[:4]), batch.bad_records)  # type: ignore[arg-type]
        with torch.cuda.stream(self._stream):
            sent = (pinned.images.to(self._device, non_blocking=True), pinned.flip.to(self._device, non_blocking=True))
        return pinned._replace(on_device=sent), self._stream.record_event()

    def arrived(self, batch: Batch, event: torch.Event) -> Batch:
        """Makes the current stream wait for the batch, and returns it."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        assert batch.on_device is not None
        for tensor in batch.on_device:
            tensor.record_stream(stream)  # else the other stream, which allocated it, could reuse its memory too soon
        return batch
