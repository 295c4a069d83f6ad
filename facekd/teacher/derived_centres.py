"""Makes the classifier that is shared out of class means: spread over more directions, mixed with the learned rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facekd.distillation.centre_geometry import cosine_correlation, effective_dimension, spread_centres
from facekd.errors import CheckpointError, InputError

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.data.datasets import FaceDataset


@dataclass(frozen=True)
class DerivedCentres:
    """Holds the centres of a shared classifier.

    Attributes:
        weight: (C, D) float32, unit rows.
        measures: how they were made and how they compare with the learned rows, for the report.
    """

    weight: NDArray[np.float32]
    measures: dict[str, Any]


def derive_centres(
    means: NDArray[np.float32], rows: NDArray[np.float32] | None, power: float | None, blend: float | None
) -> DerivedCentres:
    """Spreads class means, mixes them with learned rows, and compares them.

    Args:
        means: (C, D), the mean direction of each class.
        rows: (C, D), the model's own classifier; None if it has none.
        power: see `spread_centres`; None leaves the means as they are, what all have in common included.
        blend: share of the means, both at length 1; the rest is the rows'. None takes the means alone.

    Raises:
        InputError: a centre without a direction.
    """
    centres = means.astype(np.float64) if power is None else spread_centres(means, power)
    if blend is not None:
        assert rows is not None
        learned = rows.astype(np.float64)
        learned /= np.linalg.norm(learned, axis=1, keepdims=True)
        centres = blend * centres + (1 - blend) * learned
        lengths = np.linalg.norm(centres, axis=1, keepdims=True)
        if (lengths < 1e-6).any():
            number = int(lengths[:, 0].argmin())
            raise InputError(f"class {number}: its mean and its learned centre cancel out at --blend {blend:g}")
        centres /= lengths

    # What the result keeps of who resembles whom.
    measures: dict[str, Any] = {
        "power": power,
        "blend": blend,
        "means_dimension": effective_dimension(means),
        "dimension": effective_dimension(centres),
        "means_correlation": cosine_correlation(means, centres),
    }
    if rows is not None:
        measures["rows_dimension"] = effective_dimension(rows)
        measures["rows_and_means_correlation"] = cosine_correlation(rows, means)
    return DerivedCentres(centres.astype(np.float32), measures)


def read_own_rows(model: str, dataset: FaceDataset, is_needed: bool) -> NDArray[np.float32] | None:
    """Reads the classifier that a model was trained with, if it is a margin classifier of the same people.

    Args:
        model: the model's file, or the folder of a run.
        dataset: whose people the classes are.
        is_needed: whether to refuse a model without such a classifier.

    Returns:
        (C, D) float32; None without one.

    Raises:
        CheckpointError: it is needed, and the model has none that fits, or it is damaged.
    """
    from facekd.checkpoints.shared_head import read_classifier, require_same_people
    from facekd.embedder.checks import is_onnx_file

    if is_onnx_file(Path(model)):
        if is_needed:
            raise CheckpointError(
                f"{model}: an ONNX file has no classifier to mix the class means with: leave --blend out"
            )
        return None
    try:
        head, checkpoint = read_classifier(model)
        require_same_people(head, checkpoint, dataset)
    except CheckpointError:
        if is_needed:
            raise
        return None
    if head.kind != "margin" or head.sub_centers > 1:
        if is_needed:
            raise CheckpointError(
                f"{head.source}: --blend mixes class means with the rows of a margin classifier with one centre a "
                f"class, and this is a {head.kind} one with {head.sub_centers}: leave --blend out"
            )
        return None
    return head.weight_CD.numpy()


def describe_measures(measures: dict[str, Any]) -> str:
    """Says how the centres compare, in one line for each thing that was measured."""
    lines = [f"  effective dimension           {measures['dimension']:.1f}"]
    if measures["power"] is not None or measures["blend"] is not None:
        lines[0] += f" (class means as they are: {measures['means_dimension']:.1f})"
    if "rows_dimension" in measures:
        correlation = measures["rows_and_means_correlation"]
        agreement = "" if correlation is None else f"correlation {correlation:.2f} with the class means, "
        lines.append(f"  the model's own classifier    {agreement}effective dimension {measures['rows_dimension']:.1f}")
    return "\n".join(lines)
