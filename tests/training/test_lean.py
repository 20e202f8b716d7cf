"""The lean step is the plain one, with less memory."""

import copy

import pytest
import torch

from tests.small import MODELS, applied, batch
from tests.training.test_step import DOUBLE, groups, outputs, sgd
from wasi.methods.selection import ActivationRanks
from wasi.training.lean import LeanStep, first_convolution
from wasi.training.step import TrainStep


def as_bytes(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (size, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return images, torch.randint(5, (size,), generator=generator)


def normalize(images):
    return images.to(DOUBLE) / 127.5 - 1


def lean(model, optimizer, chunk_size=3, storage=DOUBLE, **options):
    return LeanStep(model, optimizer, normalize, chunk_size=chunk_size, storage=storage, **options)


WHOLE_BATCH = {"torchvision_vit": [8, 6, 8], "timm_vit": [8, 6, 8], "swin": [8, 3, 3, 8]}


@pytest.mark.parametrize("method", ["vanilla", "wasi", "wsi", "asi", "svd_llm", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_lean_equals_plain(name, method):
    # A batch mode kept whole does not depend on how the batch is cut.
    whole = ActivationRanks("fixed", 1.0, WHOLE_BATCH[name]) if method in ("wasi", "asi") else None
    model = applied(name, method, DOUBLE, scope="mlp", activations=whole)
    other = copy.deepcopy(model)
    plain = TrainStep(model, sgd(model), normalize, clip_norm=2.0)
    thin = lean(other, sgd(other), clip_norm=2.0)
    for seed in range(3):
        images, labels = as_bytes(seed=seed)
        a, b = plain(normalize(images), labels), thin(*thin.prepare(images, labels))
        assert (a.loss, a.grad_norm) == pytest.approx((b.loss, b.grad_norm), rel=1e-9)
    assert torch.allclose(outputs(model), outputs(other), atol=1e-9)


def test_dropout_falls_the_same_way_again():
    from timm.models.vision_transformer import VisionTransformer

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
    optimizer = torch.optim.SGD(groups(other), lr=0.05)
    step = LeanStep(other, optimizer, lambda x: x, clip_norm=2.0, chunk_size=8, storage=torch.bfloat16)
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


@pytest.mark.parametrize("name", MODELS)
def test_first_convolution_is_the_patch_embedding(name):
    assert first_convolution(MODELS[name]())[1].in_channels == 3
