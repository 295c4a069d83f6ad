"""Plants groups of generated people that differ by known parameters, to try out error rates by group.

Three attributes cut the people into halves, crossed, by the last three bits of their numbers. The photos of `poor` ones
are worse, people of `alike` looks resemble one another, and the halves of `control` do not differ at all.
"""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.parameters import Parameters, identities_of

# The attributes and their groups: bit k of a person's number chooses between the two of attribute k.
ATTRIBUTES = {"photos": ("usual", "poor"), "looks": ("usual", "alike"), "control": ("one", "other")}
MIN_PEOPLE = 2 ** len(ATTRIBUTES)  # the first so many have every combination
# Photos of the poor are all blurred (usually one in four is), and these parameters are so many times as large.
POOR_FACTORS = {
    "yaw": 1.5,
    "pitch": 1.5,
    "noise": 2.0,
    "alignment_angle": 2.0,
    "alignment_scale": 2.0,
    "alignment_x": 2.0,
    "alignment_y": 2.0,
}
ALIKE_SHARE = 2 / 3  # of the way from a person's own measures and colours to those of the one whom all resemble
RESEMBLED = 1 << 41  # the number of that person, who is in no set


def groups_of(numbers: np.ndarray) -> dict[str, list[str]]:
    """Returns the groups of people by number, (B,): for each attribute the names of B groups."""
    return {
        attribute: [pair[bit] for bit in (np.asarray(numbers) >> k & 1).tolist()]
        for k, (attribute, pair) in enumerate(ATTRIBUTES.items())
    }


def groups_as_csv(numbers: range, name: str, first: int = 0) -> str:
    """Returns a file of groups, as `facekd evaluate --groups` reads it.

    Args:
        numbers: who is in it, as names number them.
        name: the format of a name, such as "{:07d}".
        first: the number of person 0 in the population.
    """
    groups = groups_of(first + np.array(numbers))
    rows = zip((name.format(number) for number in numbers), *groups.values(), strict=True)
    return "".join(f"{','.join(row)}\n" for row in (("person", *ATTRIBUTES), *rows))


def plant_groups(
    identity: Parameters, nuisance: Parameters, numbers: np.ndarray, seed: int
) -> tuple[Parameters, Parameters]:
    """Changes the parameters of those whose photos are poor, and of those whose looks are alike.

    Args:
        identity, nuisance: who is in B images and how each was taken.
        numbers: the number of the person in each, (B,).
        seed: the population, as in `sample_identities`.

    Returns:
        Both tables anew.
    """
    groups = groups_of(numbers)
    is_poor, is_alike = np.array(groups["photos"]) == "poor", np.array(groups["looks"]) == "alike"
    # Measures and colours move towards the one whom all resemble; the kind of hair and beard become that one's.
    resembled, looks = identities_of(np.array([RESEMBLED]), seed), {}
    for name, column in identity.columns.items():
        target = resembled[name]
        if np.issubdtype(column.dtype, np.floating):
            target = column + ALIKE_SHARE * (target - column)
        looks[name] = np.where(is_alike.reshape(-1, *[1] * (column.ndim - 1)), target, column)
    # Photos get worse.
    photos = dict(nuisance.columns)
    photos["is_blurred"] = photos["is_blurred"] | is_poor
    for name, factor in POOR_FACTORS.items():
        photos[name] = np.where(is_poor, factor * photos[name], photos[name])
    return Parameters(looks), Parameters(photos)
