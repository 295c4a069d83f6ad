"""Batches on their way to a GPU while the one before is trained on: page-locked memory, and a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekd.data.loading.batch import Batch


class CudaSender:
    """Sends batches to a GPU. `send_next` is for a thread ahead, `arrived` for the one that uses them.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)

    def send_next(self, batches: Iterator[Batch]) -> tuple[Batch, torch.Event] | None:
        """The next batch, its copy to the GPU under way, with the event of its arrival; None after the last."""
        batch = next(batches, None)
        if batch is None:
            return None
        # A thread has a current device of its own, at first GPU 0: locking pages would open that one as well.
        torch.cuda.set_device(self._device)
        # A copy from ordinary memory would wait. torch keeps the locked memory until this copy has been made.
        pinned = Batch(*(tensor.pin_memory() for tensor in batch[:4]), batch.bad_records)  # type: ignore[arg-type]
        with torch.cuda.stream(self._stream):
            sent = (pinned.images.to(self._device, non_blocking=True), pinned.flip.to(self._device, non_blocking=True))
        return pinned._replace(on_device=sent), self._stream.record_event()

    def arrived(self, batch: Batch, event: torch.Event) -> Batch:
        """The batch, for what the current stream does from here on."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        assert batch.on_device is not None
        for tensor in batch.on_device:
            tensor.record_stream(stream)  # made on the other stream, whose memory it must not go back to too soon
        return batch
