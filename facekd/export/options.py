"""Holds what `facekd export` is asked for, and refuses what cannot go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facekd.errors import ModelError
from facekd.utils.wording import agreeing, counted

# 18 is what torch's exporter writes; runtimes of phones and older ones know less.
OLDEST_OPSET, NEWEST_OPSET = 11, 18
# Folding batch norm and reordering sums costs about 1e-5; a wrong layer costs more than 1e-2.
TOLERANCE = 1e-3
INT8_OPSET = 13  # the first in which DequantizeLinear has a scale for each channel
MOST_CALIBRATED_AT_ONCE = 64  # images whose activations are all in memory together
LEAST_CALIBRATION, CALIBRATION = 32, 64  # images
ALLOWED_LOSS = 0.2  # points of accuracy and of EER
LEAST_COSINE = 0.99
CalibrationMethod = Literal["percentile", "entropy", "minmax"]
Precision = Literal["fp32", "fp16", "int8", "int8-weights"]
PreluForm = Literal["fast", "native"]
InputForm = Literal["float", "uint8-nchw", "uint8-nhwc"]


@dataclass(frozen=True)
class ExportOptions:
    """Says how a network is written as an ONNX file.

    Args:
        normalize: divide each embedding by its L2 norm inside the graph.
        flip: embed each image and its mirror image, and return the mean of both embeddings; normalised afterwards.
        prelu: "fast" writes PReLU as depthwise convolutions, which onnxruntime computes several times faster; "native"
            keeps the operator. Both give the same embeddings.
        input: "float" takes normalised float32 (B, 3, S, S); "uint8-nchw" takes raw pixels (B, 3, S, S) and
            "uint8-nhwc" (B, S, S, 3), normalised inside the graph.
        color: order of the channels that the graph takes; None takes the network's own. Another needs raw pixels.
        batch: a fixed number of images; None takes any number.
        opset: of the operators, from 11 to 18.
        tolerance: largest relative error |onnx - torch| / |torch| allowed, at batch 1, 2 and 7; of the float32 graph,
            from which the others are made.
        precision: "fp32"; "fp16", layers in float16; "int8", layers with bytes, calibrated on faces; "int8-weights",
            weights as bytes, which runtimes turn into float32. Inputs and outputs keep their types.

    Raises:
        ModelError: a value is outside of its range, or another value would be ignored.
    """

    normalize: bool = False
    flip: bool = False
    prelu: PreluForm = "fast"
    input: InputForm = "float"
    color: Literal["rgb", "bgr"] | None = None
    batch: int | None = None
    opset: int = NEWEST_OPSET
    tolerance: float = TOLERANCE
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise ModelError(f"opset {self.opset} is not written: from {OLDEST_OPSET} to {NEWEST_OPSET}")
        if self.batch is not None and self.batch < 1:
            raise ModelError(
                f"a batch of {counted(self.batch, 'image')}: give 1 or more, or leave it out for any number"
            )
        if self.color is not None and self.input == "float":
            raise ModelError(
                "the order of the channels can be chosen for raw pixels (input uint8-nhwc or uint8-nchw); normalised "
                "images have the order that the network was trained with"
            )
        if self.precision == "int8" and self.opset < INT8_OPSET:
            raise ModelError(
                f"int8 with a scale for each channel needs opset {INT8_OPSET} or newer, and --opset is {self.opset}; "
                "int8-weights and fp16 can be written in any"
            )
        if self.precision == "int8" and (self.batch or 1) > MOST_CALIBRATED_AT_ONCE:
            raise ModelError(
                f"int8 is calibrated with all values of a batch in memory: --batch at most {MOST_CALIBRATED_AT_ONCE}, "
                f"found {self.batch}"
            )


@dataclass(frozen=True)
class JudgingOptions:
    """Says on which faces a variant in fewer bits is calibrated and compared with float32, and what it may lose.

    Args:
        calibrate: a pack (.bin, .npz), a .rec or a folder of aligned faces. int8 is calibrated on some of them, and any
            variant compared with float32 on others. None compares on the packs or, without any, on generated faces.
        calibration_images: how many of them int8 is calibrated on.
        calibration_method: how the range of an activation is chosen: "percentile" (99.999 % of the values),
            "entropy", or "minmax".
        judge: packs on which accuracy, EER and TAR@FAR are measured, beside those of float32 if it is a variant.
        allow_loss: how many points of accuracy, EER or TAR@FAR a variant may lose on a pack; a loss counts if its 95 %
            interval excludes none.
        allow_cosine: the least mean cosine between the embeddings of a variant and of float32.
        keep_anyway: keep a variant that loses more.
        resize: scale faces of another size instead of refusing them.

    Raises:
        ModelError: a number is out of range.
    """

    calibrate: Path | str | None = None
    calibration_images: int = CALIBRATION
    calibration_method: CalibrationMethod = "percentile"
    judge: tuple[Path | str, ...] = ()
    allow_loss: float = ALLOWED_LOSS
    allow_cosine: float = LEAST_COSINE
    keep_anyway: bool = False
    resize: bool = False

    def __post_init__(self) -> None:
        if self.calibration_images < LEAST_CALIBRATION:
            raise ModelError(
                f"{counted(self.calibration_images, 'calibration image is', 'calibration images are')} too few: give "
                f"{LEAST_CALIBRATION} or more"
            )
        if not self.allow_loss >= 0 or not -1 <= self.allow_cosine <= 1:
            raise ModelError(
                f"a loss of {self.allow_loss:g} {agreeing(self.allow_loss, 'point')} and a cosine of "
                f"{self.allow_cosine} cannot be limits: the loss is 0 or more, the cosine from -1 to 1"
            )

    def check(self, options: ExportOptions) -> None:
        """Refuses options that would have no effect, and int8 without faces.

        Raises:
            ModelError: saying which.
        """
        defaults = JudgingOptions()
        names = {
            "calibration_images": options.precision == "int8",
            "calibration_method": options.precision == "int8",
            "calibrate": options.precision != "fp32",
            "allow_loss": options.precision != "fp32",
            "allow_cosine": options.precision != "fp32",
            "keep_anyway": options.precision != "fp32",
            "resize": self.calibrate is not None or bool(self.judge),
        }
        for name, has_effect in names.items():
            if not has_effect and getattr(self, name) != getattr(defaults, name):
                option = "--" + name.replace("_", "-")
                raise ModelError(f"{option} has no effect on {options.precision} here: leave it out")
        if options.precision == "int8" and self.calibrate is None:
            raise ModelError(
                "int8 is calibrated on faces: name some by --calibrate, a pack (.bin, .npz), a .rec or a folder of "
                "aligned faces such as the network was trained on"
            )
