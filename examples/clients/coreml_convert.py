"""Converts a checkpoint of facekd to Core ML:  python coreml_convert.py runs/mine MODEL.mlpackage"""

import sys

import coremltools
import torch

from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.run_folder import resolve_checkpoint

backbone, preprocessing = load_backbone(resolve_checkpoint(sys.argv[1]))
size, (std,) = preprocessing.image_size, set(preprocessing.std)  # Core ML knows one std for all channels
example = torch.zeros(1, 3, size, size)
program = torch.export.export(backbone.eval(), (example,)).run_decompositions({})
image = coremltools.ImageType(
    "images",
    example.shape,
    scale=1 / std,
    bias=[-mean / std for mean in preprocessing.mean[:: preprocessing.channel_step]],  # in the network's order
    color_layout=preprocessing.color.upper(),
)
precision = coremltools.precision.FLOAT32  # FLOAT16 is Core ML's own choice
output = coremltools.TensorType("embedding")
coremltools.convert(program, inputs=[image], outputs=[output], compute_precision=precision).save(sys.argv[2])
