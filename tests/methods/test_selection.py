"""Ranks of saved inputs: what fixed ones cut, what is told of those that cut nothing, and inputs that have no ranks."""

import pytest
import torch

from tests.small import batch, build
from tests.small import method as make
from wasi.errors import UserError
from wasi.methods.perplexity_search import PerplexitySearch
from wasi.methods.scope import scope_linears
from wasi.methods.selection import ActivationRanks


@pytest.mark.parametrize(("features", "warned"), [(100_000, True), (129, True), (64, False), (40, False)])
def test_a_rank_above_every_layer_s_size_is_told(features, warned, caplog):
    model = build("timm_vit")  # its MLPs' inputs have 32 and 128 features
    ranks = ActivationRanks("fixed", 0.8, [8, 4, features])
    ranks.states(model, scope_linears(model, "mlp"), [batch()])
    found = [message for message in caplog.messages if f"so {features} keeps it whole" in message]
    assert bool(found) == warned and len(found) <= 1


@pytest.mark.parametrize("selection", ["epsilon", "fixed", "perplexity"])
def test_inputs_that_are_not_finite_are_told_with_the_layer(selection):
    model = build("timm_vit")
    torch.nn.init.constant_(model.patch_embed.proj.bias, float("nan"))
    search = PerplexitySearch("memory", None, None, None)
    ranks = ActivationRanks(selection, 0.8, [8, 4, 5] if selection == "fixed" else None, search)
    with pytest.raises(UserError, match=r"^model\.weights=\(blocks\.\d\.\w+\.\w+\): .* not finite"):
        make("asi", activations=ranks).apply(model, [batch()])
