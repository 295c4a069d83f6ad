"""Defines the `augmentation:` section of a training config."""

from __future__ import annotations

from dataclasses import dataclass

from facekd.errors import ConfigError

JPEG_BEST_QUALITY = 95
BLUR_MIN_SIGMA = 0.5


@dataclass(frozen=True)
class Augmentation:
    """Says which augmentations are applied, how often and how strongly; in this order, each drawn independently.

    `crop`, `low_resolution` and `color_jitter` follow the public training code of AdaFace (Kim, Jain, Liu, CVPR 2022),
    with its strengths as defaults; it uses 0.2 for each of the three.

    Attributes:
        flip: mirror left and right with probability 1/2 (done on the device).
        resized_crop: for classification: replace each image by a random box of it, of an area drawn from
            [resized_crop, 1] and an aspect of 3/4 to 4/3, scaled to the image size; 0.08 is usual for ImageNet, 0
            takes whole images.
        pad_crop: for classification: pad each image with this many black pixels, then cut out a window of its size at
            random; 4 is usual for CIFAR, 0 shifts none.
        crop: probability of keeping a random box of the face in its place and blackening the rest, so that the
            alignment is kept.
        low_resolution: probability of scaling the image down and up again.
        color_jitter: probability of changing brightness, contrast and saturation, in random order.
        blur: probability of a Gaussian blur.
        jpeg: probability of compressing once more as a JPEG of low quality.
        crop_min_area: smallest box, as a share of the image; drawn from [crop_min_area, 1].
        low_resolution_min_side: smallest side, as a share of the image's; drawn from [low_resolution_min_side, 1].
        color_jitter_strength: each factor is drawn from [1 - strength, 1 + strength].
        blur_max_sigma: largest standard deviation, in pixels of a 112-pixel image; drawn from [0.5, blur_max_sigma].
        jpeg_min_quality: lowest quality; drawn from [jpeg_min_quality, 95].

    Raises:
        ConfigError: a value is out of range, or a strength makes its augmentation do nothing.
    """

    flip: bool = True
    resized_crop: float = 0.0
    pad_crop: int = 0
    crop: float = 0.0
    low_resolution: float = 0.0
    color_jitter: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0
    crop_min_area: float = 0.2
    low_resolution_min_side: float = 0.2
    color_jitter_strength: float = 0.5
    blur_max_sigma: float = 2.0
    jpeg_min_quality: int = 30

    def __post_init__(self) -> None:
        # Ranges.
        for key in ("crop", "low_resolution", "color_jitter", "blur", "jpeg"):
            self._check(key, 0.0, 1.0, "a probability")
        self._check("resized_crop", 0.0, 1.0, "a share of the image's area")
        self._check("pad_crop", 0, 64, "in pixels")
        if self.crop and (self.resized_crop or self.pad_crop):
            raise ConfigError(
                "augmentation.crop blackens all but a box of an aligned face and leaves it in its place, while "
                "augmentation.resized_crop and pad_crop move what is left: choose one"
            )
        self._check("crop_min_area", 0.01, 1.0, "a share of the image's area")
        self._check("low_resolution_min_side", 0.02, 1.0, "a share of the image's side")
        self._check("color_jitter_strength", 0.0, 1.0, "a relative change")
        self._check("blur_max_sigma", BLUR_MIN_SIGMA, 20.0, "in pixels")
        self._check("jpeg_min_quality", 1, JPEG_BEST_QUALITY, "a JPEG quality")
        # An augmentation that is asked for must change something.
        idle = {
            "crop": ("crop_min_area", 1.0),
            "low_resolution": ("low_resolution_min_side", 1.0),
            "color_jitter": ("color_jitter_strength", 0.0),
        }
        for key, (strength, value_of_nothing) in idle.items():
            if getattr(self, key) > 0 and getattr(self, strength) == value_of_nothing:
                raise ConfigError(
                    f"augmentation.{strength}={value_of_nothing:g} leaves every image as it is, yet "
                    f"augmentation.{key}={getattr(self, key):g} asks for it; change {strength}, or set {key} to 0"
                )

    def _check(self, key: str, low: float, high: float, meaning: str) -> None:
        value = getattr(self, key)
        if not low <= value <= high:  # false for NaN as well
            raise ConfigError(f"augmentation.{key} must be from {low:g} to {high:g} ({meaning}), found {value}")

    @property
    def changes_pixels(self) -> bool:
        """Whether the workers have anything to do; the flip is done on the device."""
        kinds = (self.crop, self.low_resolution, self.color_jitter, self.blur, self.jpeg)
        return any((self.resized_crop, self.pad_crop, *kinds))
