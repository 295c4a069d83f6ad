"""Embeds aligned faces with ncnn: pnnx turns the ONNX file, of `--input float`, into ncnn's two."""

import subprocess
from pathlib import Path

import ncnn
import numpy as np

MEAN, STD = 127.5, 127.5  # those of the network: `facekd describe model.onnx` prints them


def convert(path, fp16=0):
    """Writes MODEL.ncnn.param and MODEL.ncnn.bin beside MODEL.onnx; fp16=1 halves the size of the weights."""
    onnx, param = Path(path), Path(path).with_suffix(".ncnn.param").name
    words = ["pnnx", onnx.name, "inputshape=[1,3,112,112]", f"fp16={fp16}"]
    words += [f"ncnnparam={param}", f"ncnnbin={onnx.with_suffix('.ncnn.bin').name}"]
    subprocess.run(words, cwd=onnx.parent, check=True)


def open_model(path, threads=1):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D)."""
    convert(path)
    network = ncnn.Net()
    network.opt.num_threads = threads
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    files = [str(Path(path).with_suffix(f".ncnn.{part}")) for part in ("param", "bin")]
    if network.load_param(files[0]) or network.load_model(files[1]):
        raise OSError(f"ncnn cannot load {' and '.join(files)}")

    def embed_one(face):
        image = ncnn.Mat.from_pixels(face, ncnn.Mat.PixelType.PIXEL_RGB, 112, 112)
        image.substract_mean_normalize([MEAN] * 3, [1 / STD] * 3)  # ncnn's own spelling
        extractor = network.create_extractor()
        extractor.input("in0", image)
        return np.array(extractor.extract("out0")[1])

    return lambda faces: np.stack([embed_one(face) for face in faces])
