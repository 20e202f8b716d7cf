"""What trains, and what a backward pass is spared, where only a part of the library's model is fine-tuned."""

import pytest
import torch

from tests.small import MODELS, batch, build
from wasi.errors import UserError
from wasi.measure.run import counts
from wasi.methods.partial import BitFit, FreezeFirst, LinearProbe
from wasi.methods.vanilla import Vanilla
from wasi.models.structure import find_blocks, head_module
from wasi.training.step import TrainStep


def moved(model) -> set[str]:
    """Names of the parameters that a step changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    TrainStep(model, optimizer(model), None)(*batch())
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def optimizer(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)


def in_head(model) -> set[str]:
    head = {id(p) for p in head_module(model).parameters()}
    return {name for name, p in model.named_parameters() if id(p) in head}


@pytest.mark.parametrize("name", MODELS)
def test_a_linear_probe_trains_the_head_alone(name):
    model = LinearProbe("linear_probe", "mlp").apply(build(name), [])
    assert moved(model) == in_head(model)


@pytest.mark.parametrize("name", MODELS)
def test_bitfit_trains_biases_and_head(name):
    model = BitFit("bitfit", "mlp").apply(build(name), [])
    biases = {n for n, p in model.named_parameters() if p.dim() == 1 and n.rpartition(".")[2].endswith("bias")}
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trains == biases | in_head(model) and moved(model) <= trains
    assert any("norm" in n or "ln" in n for n in moved(model)) and any("mlp" in n for n in moved(model))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_first_blocks_and_what_feeds_them_stay(name, count):
    model = FreezeFirst("freeze_first", "mlp", count).apply(build(name), [])
    blocks = find_blocks(model)
    trains = [any(p.requires_grad for p in block.parameters()) for block in blocks.values()]
    assert trains == [place >= count for place in range(len(blocks))]
    assert all(p.requires_grad for block in list(blocks.values())[count:] for p in block.parameters())
    graph = []
    for block in list(blocks.values())[:count]:
        block.register_forward_hook(lambda _, args, output: graph.append(output.requires_grad))
    assert in_head(model) <= moved(model) and graph == [False] * count


def test_by_default_half_of_the_blocks_stay():
    halves = [FreezeFirst("freeze_first", "mlp", count).apply(build("timm_vit"), []) for count in (None, 1)]
    frozen = [[n for n, p in model.named_parameters() if not p.requires_grad] for model in halves]
    assert frozen[0] == frozen[1]


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(UserError, match="method.frozen_blocks.*from 0 to 2"):
        FreezeFirst("freeze_first", "mlp", 3).apply(build("timm_vit"), [])


def test_they_are_counted_like_any_method():
    """Backward work falls with what is frozen; a probe's is its head's weight gradient, BitFit has no other."""
    images, labels = batch()

    def counted(method):
        model = method.apply(build("timm_vit"), [])
        return counts(method, TrainStep(model, optimizer(model), None), "all", (images, labels), images)

    full = counted(Vanilla("vanilla", "all", True))
    probe, bitfit = counted(LinearProbe("linear_probe", "all")), counted(BitFit("bitfit", "all"))
    frozen = [counted(FreezeFirst("freeze_first", "all", count)) for count in (0, 1, 2)]
    assert probe["flops/train_backward"] == 2 * 8 * 32 * 5
    assert probe["model/trainable_parameters"] == 32 * 5 + 5
    falling = [one["flops/train_backward"] for one in (full, *frozen)]
    assert falling == sorted(set(falling), reverse=True)
    assert falling[-1] == 2 * probe["flops/train_backward"]  # the norm before the head trains, too
    assert full["flops/train_backward"] > bitfit["flops/train_backward"] > frozen[2]["flops/train_backward"]
    for one in (probe, bitfit, *frozen):
        assert one["flops/train_forward"] == full["flops/train_forward"]
        assert one["memory/paper_inference_mib"] == full["memory/paper_inference_mib"]
