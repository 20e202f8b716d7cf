"""Fixed ranks of saved inputs: what they cut, and what is told of those that cut nothing."""

import pytest

from tests.small import batch, build
from wasi.methods.scope import scope_linears
from wasi.methods.selection import ActivationRanks


@pytest.mark.parametrize(("features", "told"), [(100_000, True), (129, True), (64, False), (40, False)])
def test_a_rank_above_every_layer_s_size_is_told(features, told, caplog):
    model = build("timm_vit")  # its MLPs' inputs have 32 and 128 features
    ranks = ActivationRanks("fixed", 0.8, [8, 4, features])
    ranks.states(model, scope_linears(model, "mlp"), [batch()])
    found = [message for message in caplog.messages if f"so {features} keeps it whole" in message]
    assert bool(found) == told and len(found) <= 1
