"""Augmentation: off by default, timm's and torchvision's transforms, and a function of seed, epoch and image alone."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from wasi.config.validate import OPTIONS
from wasi.data.arrays import from_numpy
from wasi.data.augment import AugmentedImages, augmented, batch_mix, seeded_by_key
from wasi.data.catalogue import load_data
from wasi.data.loader import Loader, train_batches

CONF = Path(__file__).parents[2] / "conf" / "augment"


@pytest.fixture
def augment():
    def make(name="paper", **changes):
        return OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)

    return make


@pytest.fixture
def images(spec):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 12, 12, 3), np.uint8)
    return from_numpy(pixels, np.arange(21) % 4, spec(16))


def test_the_papers_recipe_augments_nothing(augment, images, spec):
    assert augmented(images, augment(), spec(16), 0) is images and batch_mix(augment(), 4) is None
    assert augmented(images, augment(mixup_alpha=0.5), spec(16), 0) is images
    assert augment().label_smoothing == 0


def test_deit_asks_for_everything(augment, images, spec):
    assert isinstance(augmented(images, augment("deit"), spec(16), 0), AugmentedImages)
    assert augment().keys() == augment("deit").keys()
    assert batch_mix(augment("deit"), 4) is not None and augment("deit").label_smoothing == 0.1


POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m10-n3-p0.8-mmax10-inc1", "augmix-m3-w3-d2-a1.5-b1", "v0r", "original", "3a"]
POLICIES += ["rand-m1000-mmax1000-inc1", "rand-n100-mstd1000", "augmix-m1000-w100-d1-a0.1", "augmix-w1-a1000"]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_allowed_policy_is_timms(policy, augment, images, spec):
    assert OPTIONS["augment.auto_augment"][0](policy)
    changed = augmented(images, augment(auto_augment=policy), spec(16), 0)
    items = [changed[i] for i in range(10 * len(images))]
    assert all(image.dtype == torch.uint8 and image.shape == (3, 16, 16) for image, _ in items)
    assert [label for _, label in items] == (np.arange(21) % 4).tolist() * 10
    assert len({image.numpy().tobytes() for image, _ in items}) > 100


def test_an_item_is_a_function_of_seed_epoch_and_index_and_leaves_no_trace(augment, images, spec):
    one, other = (augmented(images, augment("deit"), spec(16), seed) for seed in (0, 1))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = one[3][0]
    assert torch.equal(first, one[3][0])
    assert not torch.equal(first, one[3 + len(images)][0]) and not torch.equal(first, other[3][0])
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def test_a_policy_without_crops_sees_the_centred_square(augment, spec, image_tree, config):
    train = load_data(config("image_folder", root=image_tree), spec(24), 0).train
    plain = augmented(train, augment(auto_augment="rand-m9-p0"), spec(24), 0)  # the policy with probability 0
    for index in range(len(train)):
        assert torch.equal(plain[index][0], train[index][0])


def test_crops_come_from_the_image_at_its_own_size(augment, spec, tmp_path):
    wide = np.zeros((1, 10, 40, 3), np.uint8)
    wide[:, :, 30:] = 200  # outside the centred square
    changed = augmented(from_numpy(wide, [0], spec(8)), augment(scale=[0.05, 0.2]), spec(8), 0)
    assert any(changed[epoch][0].max() == 200 for epoch in range(20))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 3])
def test_the_rest_of_an_epoch_is_that_of_the_whole_whatever_the_workers(augment, images, spec, workers, start):
    changed, mix = augmented(images, augment("deit"), spec(16), 5), batch_mix(augment("deit"), 4)
    whole = list(train_batches(Loader(changed), 6, 5, 2, hflip=0.5, mix=mix))
    rest = list(train_batches(Loader(changed, workers), 6, 5, 2, start, 0.5, mix))
    for batch, expected in zip(rest, whole[start:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


def test_workers_live_as_long_as_their_loader(augment, images, spec):
    changed = augmented(images, augment("deit"), spec(16), 0)
    loader = Loader(changed, 1)
    expected = [list(train_batches(Loader(changed), 6, 0, epoch)) for epoch in (0, 1)]
    found, pids = [], set()
    for epoch in (0, 1):
        next(train_batches(loader, 6, 0, epoch + 7))  # a pass that is broken off
        found.append(list(train_batches(loader, 6, 0, epoch)))
        pids |= {worker.pid for worker in loader._loader._iterator._workers}
    assert len(pids) == 1
    for epoch in (0, 1):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(found[epoch], expected[epoch], strict=True))


def test_mixed_images_are_the_shares_that_their_labels_say(augment):
    values = torch.tensor([0, 100, 200])
    images = values.byte()[:, None, None, None].expand(3, 3, 8, 8)
    for option in ("mixup_alpha", "cutmix_alpha"):
        mix = batch_mix(augment(**{option: 1.0}), 3)
        drawn = set()
        for number in range(20):
            mixed, labels = mix(images, torch.arange(3), 0, 0, number)
            assert mixed.dtype == torch.uint8 and labels.shape == (3, 3)
            torch.testing.assert_close(labels.sum(1), torch.ones(3))
            torch.testing.assert_close(mixed.float().mean((1, 2, 3)), labels @ values.float(), atol=0.51, rtol=0)
            drawn.add(labels.numpy().tobytes())
        assert len(drawn) > 5
        again, _ = mix(images, torch.arange(3), 0, 0, 19)
        assert torch.equal(again, mixed)


def test_both_mixes_take_turns(augment):
    mix = batch_mix(augment(mixup_alpha=1.0, cutmix_alpha=1.0), 2)
    images = torch.tensor([0, 250], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 16, 16)
    whole = [mix(images, torch.arange(2), number)[0][0].unique().numel() == 1 for number in range(60)]
    assert 15 < sum(whole) < 50  # mixup changes all pixels alike; a CutMix box may cover all or nothing


def test_a_seeded_context_restores_on_errors_too():
    before = random.getstate()
    with pytest.raises(ZeroDivisionError), seeded_by_key("x"):
        random.random()
        raise ZeroDivisionError
    assert random.getstate() == before


def test_a_posterized_image_may_keep_no_bit():
    from wasi.data.augment import _posterize

    image = Image.new("RGB", (2, 2), (255, 10, 129))
    assert np.asarray(_posterize(image, 0)).max() == np.asarray(_posterize(image, -396)).max() == 0
    assert np.asarray(_posterize(image, 1))[0, 0].tolist() == [128, 0, 128]
