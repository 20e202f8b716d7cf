"""The lean step is the plain one, with less memory."""

import copy

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.small import METHODS, MODELS, applied, batch, method_options
from tests.training.test_step import DOUBLE, optimizer, outputs, sgd
from wasi.errors import UserError
from wasi.layers.autocast import autocast_forward
from wasi.layers.factored import FactoredLinear
from wasi.measure.memory import train_peak
from wasi.methods.selection import ActivationRanks
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.lean import LeanStep, _patch_embedding
from wasi.training.segments import segment_lengths, segments
from wasi.training.step import TrainStep


def as_bytes(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return images, torch.randint(5, (size,), generator=generator)


def normalize(images):
    return images.to(DOUBLE) / 127.5 - 1


def lean(model, optimizer, chunk_size=3, segment_size=2, storage=DOUBLE, **options):
    sizes = {"chunk_size": chunk_size, "segment_size": segment_size}
    return LeanStep(model, optimizer, normalize, storage=storage, **sizes, **options)


WHOLE_BATCH = {"torchvision_vit": [8, 6, 8], "timm_vit": [8, 6, 8], "swin": [8, 3, 3, 8]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_lean_equals_plain(name, method):
    # A batch mode kept whole does not depend on how the batch is cut.
    whole = ActivationRanks("fixed", 1.0, WHOLE_BATCH[name]) if "activations" in method_options(method) else None
    model = applied(name, method, DOUBLE, scope="mlp", activations=whole)
    other = copy.deepcopy(model)
    plain = TrainStep(model, sgd(model), normalize, clip_norm=2.0)
    thin = lean(other, sgd(other), clip_norm=2.0)
    for seed in range(3):
        images, labels = as_bytes(seed=seed)
        a, b = plain(normalize(images), labels), thin(*thin.prepare(images, labels))
        assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=1e-9)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


@pytest.mark.parametrize(("method", "name"), [
    ("freeze_first", "timm_vit"), ("linear_probe", "timm_vit"), ("linear_probe", "swin"), ("lora", "torchvision_vit"),
])  # fmt: skip
def test_what_is_frozen_runs_in_chunks_too(method, name):
    model, embedded, seen = applied(name, method, DOUBLE), set(), set()
    step = lean(model, sgd(model))
    step.normalize = lambda images: embedded.add(len(images)) or normalize(images)
    for place, module in model.named_modules():
        if ".mlp" in place and isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: seen.add(len(inputs[0])))
    images, labels = as_bytes()
    result = step(*step.prepare(images, labels))
    assert embedded == {3, 2} and seen <= {3, 2}
    other = applied(name, method, DOUBLE)
    assert result.loss == pytest.approx(TrainStep(other, sgd(other), None)(normalize(images), labels).loss, rel=1e-9)


def test_a_frozen_block_that_returns_several_activations_runs_once_after_the_first_step():
    model, seen = applied("timm_vit", "linear_probe", DOUBLE), []
    first, second = model.blocks
    first.forward = lambda x, of_one=first.forward: seen.append(len(x)) or (of_one(x), x)
    model.blocks.forward = lambda x: second(first(x)[0])
    step = lean(model, sgd(model))
    for ran in ([3, 8], [8], [8]):
        seen.clear()
        step(*step.prepare(*as_bytes()))
        assert seen == ran


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_sgd_in_parts_differs_by_rounding_alone(method, dtype, tolerance):
    start = applied("timm_vit", method, dtype)

    def stepped(make, repeated=False, **options):
        model = copy.deepcopy(start)
        if repeated:
            checkpoint_blocks(model)
        step = make(model, sgd(model), lambda images: images.to(dtype) / 127.5 - 1, clip_norm=2.0, **options)
        step(*step.prepare(*as_bytes()))
        return _weights(model)

    before, whole = _weights(start), stepped(TrainStep)
    for parts in (
        stepped(TrainStep, micro_batch_size=3),
        stepped(TrainStep, repeated=True),
        stepped(TrainStep, repeated=True, micro_batch_size=3),
        stepped(LeanStep, chunk_size=3, segment_size=2, storage=dtype),
        stepped(LeanStep, chunk_size=3, segment_size=1, storage=dtype, micro_batch_size=5),
    ):
        assert (parts - whole).norm() < tolerance * (whole - before).norm()


def _weights(model):
    """Everything that trains, in one vector of float64; of factors their product, which is what a step is one of."""
    factored = [m for m in model.modules() if isinstance(m, FactoredLinear)]
    held = {id(p) for layer in factored for p in (layer.L, layer.R)}
    rest = [p for p in model.parameters() if id(p) not in held]
    return torch.cat([w.detach().double().flatten() for w in [*(m.L.double() @ m.R.double() for m in factored), *rest]])


def test_repeating_blocks_lowers_the_peak():
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, embed_dim=32, depth=6, num_heads=2, num_classes=5).double()

    def peak(make, repeated=False, **options):
        net = copy.deepcopy(model)
        if repeated:
            checkpoint_blocks(net)
        step = make(net, sgd(net), normalize, **options)
        return train_peak(net, step.optimizer, step, *step.prepare(*as_bytes(24)))

    plain, checkpointed = peak(TrainStep), peak(TrainStep, repeated=True)
    chunked = peak(LeanStep, chunk_size=4, segment_size=2, storage=DOUBLE)
    assert checkpointed.total < 0.5 * plain.total and chunked.total < 0.7 * checkpointed.total


@pytest.mark.parametrize(("mib", "sizes"), [(None, {6}), (40 / 1024, {2}), (1e-9, {1})])
def test_a_chunk_is_smaller_where_layers_write_much(mib, sizes):
    model = applied("timm_vit", "wasi", DOUBLE, scope="mlp")
    plain = TrainStep(other := copy.deepcopy(model), sgd(other), normalize)
    seen, steps = [], []
    for module in (model.patch_embed.proj, *(block.norm1 for block in model.blocks)):
        module.register_forward_hook(lambda module, args, out: seen.append((module, len(out))))
    step = lean(model, sgd(model), chunk_size=6, chunk_mib=mib)
    for seed in range(2):
        images, labels = as_bytes(6, seed)
        expected = plain(normalize(images), labels).loss
        assert step(*step.prepare(images, labels)).loss == pytest.approx(expected, rel=1e-9)
        steps.append(list(seen))
        seen.clear()
    # A linear writes 17 KiB of an image (17 tokens).
    assert {size for module, size in steps[0] if module is not model.patch_embed.proj} == sizes
    assert steps[0] == steps[1]  # so that a resumed training goes on as it would have


def test_gradients_wait_for_the_step_outside_the_heap():
    model, waiting = applied("timm_vit", "vanilla", DOUBLE), {}
    step = lean(model, sgd(model), chunk_size=3)

    def look(*_):
        waiting.update((name, p.grad.untyped_storage()) for name, p in model.blocks.named_parameters())

    step.optimizer.register_step_pre_hook(look)
    step(*step.prepare(*as_bytes(6)))
    assert waiting and not any(storage.resizable() for storage in waiting.values())  # as malloc's memory would be


def test_dropout_falls_the_same_way_again():
    def run(make):
        torch.manual_seed(0)
        model = VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=5, proj_drop_rate=0.3)
        model = model.double()
        step = make(model)
        torch.manual_seed(1)
        return [step(*as_bytes(6, seed)).loss for seed in range(3)]

    # Chunks of six are one chunk: the masks are those of a plain step over the blocks.
    whole = run(lambda m: lean(m, sgd(m), chunk_size=6))
    plain = run(lambda m: TrainStep(_Normalizing(m), sgd(m), None))
    assert whole == pytest.approx(plain, rel=1e-9)


class _Normalizing(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(normalize(images))


def test_bfloat16_storage_stays_close():
    model = applied("timm_vit", "wasi")
    other = copy.deepcopy(model)
    plain = TrainStep(model, sgd(model), None, clip_norm=2.0)
    optimizer = sgd(other)
    options = {"clip_norm": 2.0, "chunk_size": 8, "segment_size": 1}
    step = LeanStep(other, optimizer, lambda x: x, storage=torch.bfloat16, **options)
    images, labels = batch()
    a, b = plain(images, labels), step(images, labels)
    assert a.loss == pytest.approx(b.loss, rel=1e-2) and a.grad_norm == pytest.approx(b.grad_norm, rel=0.05)


def test_evaluation_takes_normalised_images_in_one_piece():
    model = applied("timm_vit", "wasi", DOUBLE)
    before = outputs(model)
    lean(model, sgd(model))
    assert torch.equal(outputs(model), before)


def test_bases_advance_once_per_step():
    ranks = ActivationRanks("fixed", 1.0, [8, 6, 8])
    model = applied("timm_vit", "wasi", DOUBLE, activations=ranks)
    other = copy.deepcopy(model)
    images, labels = as_bytes()
    TrainStep(model, sgd(model), normalize)(normalize(images), labels)
    lean(other, sgd(other))(images, labels)
    for (name, a), b in zip(model.named_buffers(), other.buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name


@pytest.mark.parametrize("make", [lean, TrainStep])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("method", ["vanilla", "wasi", "wsi"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_in_the_backward_pass_are_those_after_it(name, method, momentum, make):
    def trained(in_backward):
        model = applied(name, method, DOUBLE)
        swan = optimizer(model, "wasi.training.swan.Swan", lr=2e-3, momentum=momentum)
        options = {"normalize": normalize} if make is TrainStep else {}
        step = make(model, swan, step_in_backward=in_backward, **options)
        assert bool(step.in_backward) is in_backward
        for seed in range(3):
            step(*step.prepare(*as_bytes(seed=seed)))
        return model

    assert torch.allclose(outputs(trained(True)), outputs(trained(False)), atol=1e-9)


def test_a_step_in_the_backward_pass_holds_few_gradients():
    def peak(in_backward):
        torch.manual_seed(0)
        model = VisionTransformer(16, 4, embed_dim=64, depth=8, num_heads=2, num_classes=5).double()
        swan = optimizer(model, "wasi.training.swan.Swan", lr=2e-3)
        step = lean(model, swan, segment_size=1, step_in_backward=in_backward)
        return train_peak(model, swan, step, *step.prepare(*as_bytes(3))), model

    before, _ = peak(False)
    after, model = peak(True)
    matrices = 8 * sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    assert before.gradients > 0.9 * matrices and after.gradients < 0.3 * matrices and after.total < before.total


def test_a_model_without_a_patch_embedding_is_refused():
    with pytest.raises(UserError, match="train.memory.*patch embedding"):
        _patch_embedding(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_a_model_that_changes_images_before_it_embeds_them_is_refused():
    """They are not normalised yet: what is padded would be black, and what is transformed never be normalised."""
    padding = VisionTransformer(14, 4, dynamic_img_pad=True, embed_dim=32, depth=2, num_heads=2, num_classes=5).double()
    transforming = applied("timm_vit", "vanilla", DOUBLE)
    transforming.register_forward_pre_hook(lambda _, args: args[0].double() / 255)
    images, labels = as_bytes()
    for model, given in ((padding, images[..., :14, :14]), (transforming, images)):
        with pytest.raises(UserError, match="train.memory=lean: .* changes images before its first convolution"):
            lean(model, sgd(model))(given, labels)


@pytest.mark.parametrize("segment_size", [1, 3, 8])
def test_any_length_of_segments_gives_the_same_step(segment_size):
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, embed_dim=32, depth=5, num_heads=2, num_classes=5).double()
    other = copy.deepcopy(model)
    plain, thin = TrainStep(model, sgd(model), None), lean(other, sgd(other), segment_size=segment_size)
    images, labels = as_bytes()
    for _ in range(2):
        assert plain(normalize(images), labels).loss == pytest.approx(thin(images, labels).loss, rel=1e-9)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_out_of_a_repetition_changes_no_bit(name, method, autocast, monkeypatch):
    def trained():
        model = applied(name, method)
        if autocast:
            autocast_forward(model, torch.bfloat16)
        step = lean(model, sgd(model), storage=torch.bfloat16)
        step.normalize = lambda images: images.float() / 127.5 - 1
        for seed in range(2):
            step(*step.prepare(*as_bytes(seed=seed)))
        return [*model.parameters()]

    shorter = trained()
    monkeypatch.setattr("wasi.layers.skipped_output._can_skip_output", lambda layer: False)
    monkeypatch.setattr("wasi.training.lean.convolution_graph", lambda layer: None)
    assert all(torch.equal(a, b) for a, b in zip(shorter, trained(), strict=True))


@pytest.mark.parametrize(
    "blocks, size, lengths",
    [(12, 2, [2, 2, 2, 2, 1, 1, 1, 1]), (12, 1, [1] * 12), (12, 12, [12]), (5, 3, [3, 1, 1]), (2, 2, [2]), (1, 2, [1])],
)
def test_the_last_third_of_the_blocks_is_repeated_one_by_one(blocks, size, lengths):
    assert segment_lengths(blocks, size) == lengths


def test_only_what_follows_one_another_makes_a_segment():
    from torch import nn

    blocks = [nn.Linear(2, 2) for _ in range(6)]
    model = nn.ModuleList([nn.Sequential(*blocks[:3], nn.GELU(), blocks[3]), nn.ModuleList(blocks[4:])])
    assert list(segments(model, blocks, 2)) == [
        (blocks[:2], True),
        (blocks[2:3], False),
        (blocks[3:4], False),
        (blocks[4:5], False),
        (blocks[5:], False),
    ]


def test_batch_norms_in_blocks_are_refused():
    model = MODELS["timm_vit"]()
    model.blocks[1].norm1 = torch.nn.BatchNorm1d(5)
    with pytest.raises(UserError, match="batch norm"):
        lean(model, sgd(model))


@pytest.mark.parametrize("shared", ["module", "weight"])
def test_a_step_in_the_backward_pass_on_what_segments_share_is_refused(shared):
    """Its gradient is not complete when the first of them is through."""
    model = VisionTransformer(16, 4, embed_dim=32, depth=4, num_heads=2, num_classes=5).to(DOUBLE)
    first, last = model.blocks[0].mlp, model.blocks[3].mlp
    if shared == "module":
        last.fc2 = first.fc2
    else:
        last.fc2.weight = first.fc2.weight
    swan = optimizer(model, "wasi.training.swan.Swan", lr=2e-3)
    with pytest.raises(UserError, match="train.step_in_backward=true: allowed is false .* share weights"):
        lean(copy.deepcopy(model), swan, step_in_backward=True)
    lean(model, swan, segment_size=4, step_in_backward=True)  # in one segment it is
