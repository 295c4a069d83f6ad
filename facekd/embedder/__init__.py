"""Turns images into embeddings behind one interface, whatever the model file: `open_embedder(path).embed(images)`."""

from facekd.embedder.interface import Embedder, embed_with_flip
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
from facekd.embedder.opening import open_embedder
from facekd.embedder.torch_embedder import TorchEmbedder
from facekd.images.preprocessing import Preprocessing

__all__ = [
    "Embedder",
    "OnnxEmbedder",
    "Preprocessing",
    "TorchEmbedder",
    "embed_with_flip",
    "open_embedder",
]
