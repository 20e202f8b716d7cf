import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import Dataset

from wasi.data import loader as loading
from wasi.data.arrays import from_numpy
from wasi.data.augment import batch_mix
from wasi.data.loader import Loader, calibration_batches, eval_batches, num_batches, train_batches, workers_of
from wasi.data.spec import InputSpec


class Numbered(Dataset):
    """Item i: an image whose left column is i, label i; counts what is loaded."""

    def __init__(self, count):
        self.count, self.loaded = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.loaded.append(index)
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        image[:, :, 0] = index
        return image, index


def epoch(dataset, *args, num_workers=0, **kwargs):
    return list(train_batches(Loader(dataset, num_workers), *args, **kwargs))


def labels(batches):
    return [batch[1].tolist() for batch in batches]


def test_an_epoch_has_every_image_once_and_keeps_the_last_smaller_batch():
    batches = epoch(Numbered(10), 4, seed=0, epoch=0)
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert num_batches(Numbered(10), 4) == 3
    assert sorted(sum(labels(batches), [])) == list(range(10))
    for images, y in batches:
        assert images.dtype == torch.uint8 and y.dtype == torch.int64 and images.is_contiguous()
        assert torch.equal(images[:, 0, 0, 0].long(), y)


def test_the_order_is_a_function_of_seed_and_epoch():
    first = labels(epoch(Numbered(50), 8, seed=3, epoch=2))
    assert first == labels(epoch(Numbered(50), 8, seed=3, epoch=2))
    assert first != labels(epoch(Numbered(50), 8, seed=3, epoch=1))
    assert first != labels(epoch(Numbered(50), 8, seed=2, epoch=2))
    assert sum(first, []) != list(range(50))


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_resuming_gives_the_rest_of_the_epoch_bit_for_bit_and_loads_nothing_else(start):
    dataset = Numbered(50)
    rest = epoch(dataset, 8, seed=3, epoch=2, start=start, hflip=0.5)
    whole = epoch(Numbered(50), 8, seed=3, epoch=2, hflip=0.5)
    assert len(rest) == max(0, 7 - start)
    for (images, y), (images2, y2) in zip(rest, whole[start:], strict=True):
        assert torch.equal(images, images2) and torch.equal(y, y2)
    assert dataset.loaded == sum(labels(whole[start:]), [])


def test_workers_change_nothing():
    alone = epoch(Numbered(20), 8, seed=1, epoch=0, hflip=0.5)
    helped = epoch(Numbered(20), 8, seed=1, epoch=0, hflip=0.5, num_workers=2)
    for (images, y), (images2, y2) in zip(alone, helped, strict=True):
        assert torch.equal(images, images2) and torch.equal(y, y2)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_random_state_is_touched(workers):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    epoch(Numbered(9), 4, seed=0, epoch=0, hflip=0.5, num_workers=workers)
    list(eval_batches(Loader(Numbered(9), workers), 4))
    list(calibration_batches(Numbered(9), 4, 2, seed=0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])


def halves(whole, options):
    """Both processes' parts of an epoch, and what each of them loaded."""
    found = []
    for number in range(2):
        data = Numbered(whole)
        part = epoch(data, 8, seed=1, epoch=0, part=lambda t, n=number: t.tensor_split(2)[n], **options)
        found.append((part, data.loaded))
    return found


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_parts_of_batches_are_those_of_the_whole_and_only_they_are_loaded(mixed, workers, compose_config):
    overrides = ("augment.mixup_alpha=0.8", "augment.cutmix_alpha=1") if mixed else ()
    mix = batch_mix(compose_config(*overrides).augment, 25)
    options = {"hflip": 0.5, "num_workers": workers, "mix": mix}
    whole = epoch(Numbered(25), 8, seed=1, epoch=0, **options)  # three batches of 8, and one image
    (first, loaded), (second, others) = halves(25, options)
    for (images, y), *parts in zip(whole, first, second, strict=True):
        assert torch.equal(torch.cat([x for x, _ in parts]), images)
        assert torch.equal(torch.cat([z for _, z in parts]), y)
    assert [len(y) for _, y in second] == [4, 4, 4, 0]
    if not workers:  # which load in another process
        beside = 3 if mixed else 0  # mixing needs the image before; of an empty part one image gives the shape
        assert (len(loaded), len(others)) == (13 + beside, 12 + beside + 1)


def test_parts_of_evaluation_batches_are_those_of_the_whole():
    parts = [list(eval_batches(Loader(Numbered(9)), 4, part=lambda t, n=n: t.tensor_split(2)[n])) for n in range(2)]
    assert [labels(part) for part in parts] == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], []]]
    assert parts[1][2][0].shape == (0, 3, 2, 2)


@pytest.mark.parametrize("resident", [True, False])
def test_a_small_set_lives_on_an_accelerator_as_bytes_and_is_made_ready_there(resident):
    """A device of which no number can be read stands in for one."""
    meta, pixels = torch.device("meta"), np.zeros((10, 4, 4), np.uint8)
    data = from_numpy(pixels, np.arange(10), InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bicubic"))
    loader = Loader(data, None, meta, resident)
    assert loader.dataset.images.device == (meta if resident else torch.device("cpu"))
    assert loader.dataset.images.shape == (10, 1, 4, 4) and loader.dataset.images.dtype == torch.uint8
    batches = list(train_batches(loader, 4, seed=0, epoch=0, hflip=0.5))
    assert [images.shape for images, _ in batches] == [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)]
    assert all(images.device == meta and images.dtype == torch.uint8 for images, _ in batches)
    assert sorted(sum(labels(batches), [])) == list(range(10))  # which are read, and stay on the host


def test_a_large_set_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(loading, "SMALL", 159)
    data = from_numpy(np.zeros((10, 4, 4), np.uint8), np.arange(10), InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bicubic"))
    assert Loader(data, None, torch.device("meta")).dataset.images.device.type == "cpu"


@pytest.mark.parametrize(
    ("variable", "value", "workers"),
    [("HOME", "/", 16), ("LOCAL_WORLD_SIZE", "4", 10), ("WASI_JOB_SLOTS", "0,1,2", 13), ("LOCAL_WORLD_SIZE", "64", 1)],
)
def test_processes_on_one_machine_share_its_cores(variable, value, workers, monkeypatch):
    monkeypatch.setattr(loading, "usable_cores", lambda: 40)
    monkeypatch.setenv(variable, value)
    assert Loader(Numbered(4), None, torch.device("meta"))._loader.num_workers == workers


def flipped(batches):
    """Per image, in label order: whether it was mirrored (column 0 marks image i > 0)."""
    marks = {int(y): bool(x[0, 0, 1]) for images, ys in batches for x, y in zip(images, ys, strict=True)}
    return [marks[i] for i in range(1, len(marks))]


def test_flips_follow_their_probability_and_their_key():
    data = Numbered(250)
    assert not any(flipped(epoch(data, 32, seed=0, epoch=0)))
    assert all(flipped(epoch(data, 32, seed=0, epoch=0, hflip=1.0)))
    half = flipped(epoch(data, 32, seed=0, epoch=0, hflip=0.5))
    assert 90 < sum(half) < 160
    assert 10 < sum(flipped(epoch(data, 32, seed=0, epoch=0, hflip=0.1))) < 45


def test_each_batch_of_each_epoch_has_flips_of_its_own():
    class Marked(Numbered):
        def __getitem__(self, index):
            return torch.tensor([1, 0], dtype=torch.uint8).expand(3, 2, 2), index

    def flips(seed, number):
        """Per place in the epoch, whichever image came there."""
        return [bool(x[0, 0, 1]) for images, _ in epoch(Marked(64), 32, seed, number, hflip=0.5) for x in images]

    assert flips(0, 0) == flips(0, 0)
    assert flips(0, 0) != flips(0, 1) and flips(0, 0) != flips(1, 0)
    assert flips(0, 0)[:32] != flips(0, 0)[32:]


def test_a_flip_mirrors_left_and_right_only():
    class Gradient(Numbered):
        def __getitem__(self, index):
            return torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2), 0

    [(images, _)] = epoch(Gradient(1), 1, seed=0, epoch=0, hflip=1.0)
    assert images[0, 0].tolist() == [[1, 0], [3, 2]]


def test_evaluation_keeps_the_order_and_never_flips():
    batches = list(eval_batches(Loader(Numbered(10)), 4))
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not any(flipped(batches))


def test_calibration_is_fixed_by_its_seed_and_unlike_the_first_epoch():
    first = labels(calibration_batches(Numbered(40), 8, 3, seed=5))
    assert first == labels(calibration_batches(Numbered(40), 8, 3, seed=5))
    assert first[:2] == labels(calibration_batches(Numbered(40), 8, 2, seed=5))
    assert len(set(sum(first, []))) == 24
    assert first != labels(calibration_batches(Numbered(40), 8, 3, seed=6))


def test_more_calibration_than_images_takes_them_all():
    assert sorted(sum(labels(calibration_batches(Numbered(10), 4, 9, seed=0)), [])) == list(range(10))


@pytest.mark.parametrize(
    ("memory", "device", "given", "used"),
    [("lean", "cpu", None, 0), ("plain", "cpu", None, None), ("lean", "cuda", None, None), ("lean", "cpu", 3, 3)],
)
def test_a_lean_run_on_a_cpu_loads_in_its_own_process_unless_told_otherwise(memory, device, given, used):
    cfg = OmegaConf.create({"train": {"memory": memory}, "dataset": {"num_workers": given}})
    assert workers_of(cfg, torch.device(device)) == used
