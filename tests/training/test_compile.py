"""`device.compile=true`: compiled blocks compute what eager ones do, in a bounded number of graphs."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tests.small import batch, build, method
from tests.training.test_step import DOUBLE, outputs, sgd
from wasi.errors import UserError
from wasi.layers.activation import TuckerState
from wasi.layers.autocast import autocast_forward
from wasi.measure.flops import step_flops
from wasi.measure.memory import train_peak
from wasi.training import compile as compiling
from wasi.training.compile import check_compiler, compile_blocks, graph_count, run_until_compiled, uncompiled
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep
from wasi.training.step import TrainStep

METHODS = ("vanilla", "lora", "svd_llm", "wsi", "wasi", "asi")
LEAN = {"chunk_size": 3, "segment_size": 1, "storage": DOUBLE}


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced, forward and backward, and run as they are: a second in place of many."""
    options = compiling.COMPILE_OPTIONS | {"backend": "aot_eager", "options": None}
    monkeypatch.setattr(compiling, "COMPILE_OPTIONS", options)


def applied(name, dtype=DOUBLE):
    """A ViT of one block, with a method applied to it."""
    model = build("timm_vit", dtype=dtype)
    model.blocks = model.blocks[:1]
    return method(name).apply(model, [batch(dtype=dtype)])


def trained(name, compiled, policy="plain", dtype=DOUBLE, sizes=(8, 8)):
    """Outputs after steps on so many images each, the losses, and the step."""
    model = applied(name, torch.float32 if policy == "bfloat16" else dtype)
    dtype = next(model.parameters()).dtype
    if compiled:
        compile_blocks(model)
    options = {"clip_norm": 2.0, **(LEAN if policy == "lean" else {})}
    if policy == "checkpointing":
        checkpoint_blocks(model)
    if policy == "accumulation":
        options["micro_batch_size"] = 3
    if policy == "bfloat16":
        autocast_forward(model, torch.bfloat16)
    step = (LeanStep if policy == "lean" else TrainStep)(model, sgd(model), lambda images: images, **options)
    losses = [step(*batch(size, seed, dtype)).loss for seed, size in enumerate(sizes)]
    return outputs(model), losses, step


def agree(one, other, tolerance):
    (outputs, losses, _), (expected, expected_losses, _) = one, other
    assert torch.allclose(outputs, expected, rtol=0, atol=tolerance)
    assert losses == pytest.approx(expected_losses, rel=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_compiled_steps_are_those_of_eager_blocks(name, traced):
    before = graph_count()
    found = trained(name, compiled=True)
    assert graph_count() - before == 2  # training and inference: none breaks, and no second step makes another
    agree(found, trained(name, compiled=False), 1e-12)


@pytest.mark.parametrize("policy", ["checkpointing", "lean", "accumulation", "bfloat16"])
def test_blocks_are_compiled_under_every_policy(policy, traced, monkeypatch):
    before = graph_count()
    with monkeypatch.context() as patch:
        patch.setattr("wasi.training.lean.GraphOnlyRepetition", None)  # which cannot look into what is compiled
        found = trained("wasi", True, policy)
    assert graph_count() > before
    agree(found, trained("wasi", False, policy), 1e-12)


def test_an_epochs_last_batch_makes_one_more_graph(traced):
    _, _, step = trained("vanilla", compiled=True)
    before = graph_count()
    for size in (3, 8, 3):
        step(*batch(size, dtype=DOUBLE))
    assert graph_count() - before == 1


def test_a_thread_of_autograds_own_compiles_as_many_graphs(traced):
    """In which blocks are recomputed on a GPU. torch's limit is 8, and from torch 2.12 on each thread's own."""
    model, before = applied("vanilla").eval().requires_grad_(False), graph_count()
    compile_blocks(model)
    with ThreadPoolExecutor(1) as other:
        for size in range(1, 11):
            other.submit(model, batch(size, dtype=DOUBLE)[0]).result()
    assert graph_count() - before == 10


def test_equal_blocks_share_their_graphs(traced):
    model, before = build("timm_vit"), graph_count()
    compile_blocks(model)
    model(batch()[0]).sum().backward()
    assert len(model.blocks) == 2 and graph_count() - before == 1


def test_settling_compiles_what_bases_that_take_turns_need(traced):
    model = applied("wasi")
    for layer in model.modules():
        if isinstance(layer, TuckerState):
            layer.update_gap = 2
    compile_blocks(model)
    step = TrainStep(model, sgd(model), lambda images: images)
    assert step.subspace.cycle == 2
    run_until_compiled(lambda: step(*batch(dtype=DOUBLE)), step.subspace.cycle)
    settled = graph_count()
    for _ in range(4):
        step(*batch(dtype=DOUBLE))
    assert graph_count() == settled


def test_what_looks_into_modules_finds_them_uncompiled(traced):
    seen = []
    images = batch(dtype=DOUBLE)[0]
    _, _, step = trained("vanilla", compiled=True)
    step.model.eval()
    step.model.blocks[0].mlp.fc1.register_forward_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    before = graph_count()
    with uncompiled():
        step.model(images)
        assert seen == [False]
        assert step_flops(step, *batch(dtype=DOUBLE), images, [])["flops/train_backward"] > 0  # torch.jit.trace too
    assert graph_count() == before


def test_live_memory_is_that_of_the_same_model_uncompiled(traced):
    peaks = []
    for compiled in (False, True):
        _, _, step = trained("wasi", compiled)
        peaks.append(train_peak(step.model, step.optimizer, step, *batch(dtype=DOUBLE)))
    assert peaks[0] == peaks[1]


def test_a_copy_computes_with_its_own_weights_and_a_state_has_the_same_keys(traced):
    model = applied("wasi")
    keys = list(model.state_dict())
    compile_blocks(model)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert list(model.state_dict()) == keys
    assert not outputs(other).any() and outputs(model).any()


def test_dropout_falls_as_without_a_compiler_and_machine_code_computes_the_same():
    """The one test that has the compiler write code."""
    results = []
    for compiled in (False, True):
        model = build("timm_vit")
        model.blocks = model.blocks[:1]
        model.blocks[0].mlp.drop1.p = 0.5
        if compiled:
            check_compiler(True, torch.device("cpu"))
            compile_blocks(model)
        step = TrainStep(model, sgd(model), lambda images: images)
        torch.manual_seed(3)
        results.append([step(*batch(seed=seed)).loss for seed in range(3)])
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_a_machine_without_a_compiler_refuses_in_one_line(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    check_compiler(False, torch.device("cpu"))
    with pytest.raises(UserError, match="device.compile=true: .* No working C.. compiler found$"):
        check_compiler(True, torch.device("cpu"))
