"""Tests the `loss` section: what it refuses, and the weighted sum."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from facekd.distillation import LossWeights
from facekd.distillation.weights import Need
from facekd.errors import ConfigError, InputError

OPTIONS = ("temperature", "standardize_logits", "plugin")
NAMES = [field.name for field in dataclasses.fields(LossWeights) if field.name not in OPTIONS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused_by_its_key(name, weight):
    with pytest.raises(ConfigError, match=rf"^loss\.{name} = "):
        LossWeights(**{name: weight})


def test_weights_that_sum_to_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"loss\.\* are 0.*loss\.ce, loss\.kl"):
        LossWeights(ce=0)


@pytest.mark.parametrize("temperature", [0, -4, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ConfigError, match=r"^loss\.temperature = "):
        LossWeights(temperature=temperature)
    assert LossWeights(temperature=0.5).temperature == 0.5  # any positive one will do


@pytest.mark.parametrize("name", ["nothing", "ce", "temperature", "standardize_logits"])
def test_a_plug_ins_weight_is_that_of_a_loss_which_a_plug_in_defines(name):
    with pytest.raises(ConfigError, match=rf"^loss\.plugin\.{name}: no plug-in that is loaded defines"):
        LossWeights(plugin={name: 1.0})


@pytest.mark.parametrize("name", NAMES)
def test_any_loss_may_stand_alone(name):
    assert LossWeights(**{"ce": 0, name: 0.5}).active == {name: 0.5}


def test_messages_name_the_active_losses_that_have_a_need():
    weights = LossWeights(ce=1, kl=2, th_kl=3)
    assert weights.active_keys() == "loss.ce, loss.kl, loss.th_kl"
    assert weights.active_keys(Need.OWN_HEAD) == "loss.ce, loss.kl"
    assert weights.active_keys(Need.TEACHER_SPACE | Need.MEMORY) == "loss.th_kl"


def test_the_default_is_no_distillation():
    assert LossWeights().active == {"ce": 1.0}


def test_the_weighted_sum_leaves_out_what_has_no_weight():
    weights = LossWeights(ce=2, kl=0, sp=0.5)
    values = {"ce": torch.tensor(3.0, requires_grad=True), "kl": torch.tensor(math.nan), "sp": torch.tensor(8.0)}
    total = weights.combine(values)
    assert total.item() == 10.0
    total.backward()
    assert values["ce"].grad == 2


def test_a_loss_that_was_not_computed_is_an_error():
    with pytest.raises(InputError, match=r"loss\.kl, loss\.crd"):
        LossWeights(kl=1, crd=1).combine({"ce": torch.tensor(1.0)})


def test_in_words():
    assert str(LossWeights(kl=1.5, temperature=2)) == "ce 1, kl 1.5 (T 2)"
    assert str(LossWeights(embedding_cosine=10)) == "ce 1, embedding_cosine 10"
    assert str(LossWeights(th_dist_inter=2, standardize_logits=True)) == "ce 1, th_dist_inter 2 (T 4, standardised)"


def test_logits_are_standardised_only_where_a_loss_compares_them():
    with pytest.raises(ConfigError, match=r"^loss\.standardize_logits has no effect: .*loss\.kl, loss\.dkd_target"):
        LossWeights(sp=1, standardize_logits=True)
    for name in ("kl", "th_kl", "dkd_others", "th_dist_intra"):
        assert LossWeights(**{name: 1.0}, standardize_logits=True).standardize_logits


def test_a_share_moves_every_loss_on_class_scores_to_the_teachers_head():
    weights = LossWeights(ce=2, kl=1, dkd_others=8, dist_intra=4, sp=3).shared(0.25)
    own = {"ce": 1.5, "kl": 0.75, "dkd_others": 6.0, "dist_intra": 3.0}
    assert weights.active == own | {f"th_{name}": weight / 3 for name, weight in own.items()} | {"sp": 3.0}
    assert LossWeights(kl=1).shared(1).active == {"th_ce": 1.0, "th_kl": 1.0}
