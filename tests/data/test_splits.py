"""Which images train, validate and test: stratified, disjoint, and fixed by the seed."""

from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from wasi.data.catalogue import load_data
from wasi.data.spec import Splits
from wasi.data.splits import allocate, divide, stratified


class Numbered(Dataset):
    """Images that are their own numbers."""

    def __init__(self, labels, first=0):
        self.labels, self.first = labels, first

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.first + index, int(self.labels[index])

    def joined(self, other):
        assert other.first == self.first + len(self)
        return Numbered([*self.labels, *other.labels], self.first)


def numbers(part):
    return [part[i][0] for i in range(len(part))]


def labels_of(part):
    return [part[i][1] for i in range(len(part))]


def options(**changes):
    plain = {"name": "x", "train_size": None, "val_size": None, "test_size": None}
    return plain | {"val_source": "train", "val_fraction": 0.1} | changes


def splits(labels, val=None, test=None):
    train = Numbered(labels)
    test = test if test is None else Numbered(test, 10_000)
    return Splits(train, val if val is None else Numbered(val, len(train)), test, ["a", "b", "c"])


UNEVEN = [0] * 95 + [1] * 5 + [2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [None, 1, 2, 3, 30, 97, 98])
def test_training_and_validation_are_disjoint_and_every_class_keeps_one_to_train(seed, size):
    data = divide(options(val_size=size), splits(UNEVEN), seed)
    train, val = numbers(data.train), numbers(data.val)
    assert len(val) == (size or 10) and sorted(train + val) == list(range(101))
    assert set(labels_of(data.train)) == {0, 1, 2}
    assert data.train.labels.tolist() == labels_of(data.train) and data.test is None
    assert train == sorted(train) and val == sorted(val)


@pytest.mark.parametrize("seed", range(4))
def test_every_class_validates_in_proportion(seed):
    counts = {0: 600, 1: 300, 2: 100}
    labels = [label for label, count in counts.items() for _ in range(count)]
    val = divide(options(val_fraction=0.25), splits(labels), seed).val
    assert Counter(labels_of(val)) == {0: 150, 1: 75, 2: 25}
    assert {2, 1, 0} == set(labels_of(divide(options(val_size=3), splits(labels), seed).val))


def test_a_class_of_one_image_never_validates_and_one_of_few_gives_at_least_one():
    for seed in range(20):
        assert Counter(labels_of(divide(options(), splits(UNEVEN), seed).val)) == {0: 9, 1: 1}


def test_too_few_to_validate_for_all_classes_do_not_always_fall_on_the_first():
    labels = [c for c in range(40) for _ in range(10)]
    drawn = [divide(options(val_size=5), splits(labels), seed).val for seed in range(60)]
    seen = {label for val in drawn for label in labels_of(val)}
    assert len(seen) == 40


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_rounded_down_or_up_and_sum_to_the_size(seed):
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 60, (12,), generator=draw).tolist()
    total = sum(counts)
    for size in (12, total // 7, total // 3, total // 2):
        given = allocate(counts, size, keep=1)
        assert sum(given) == size and all(1 <= n < count for n, count in zip(given, counts, strict=True))
        beyond = [abs(n - size * count / total) for n, count in zip(given, counts, strict=True) if n > 1]
        assert all(distance < 1 + 1e-9 for distance in beyond) or size == 12


def test_more_than_can_be_given_is_an_error():
    assert allocate([3, 2, 1], 3, keep=1) == [2, 1, 0] and allocate([3, 2, 1], 6) == [3, 2, 1]
    with pytest.raises(ValueError, match="4 of 3"):
        allocate([3, 2, 1], 4, keep=1)


def test_the_seed_decides_and_nothing_else():
    def val(seed, **changes):
        return numbers(divide(options(**changes), splits(UNEVEN), seed).val)

    assert val(1) == val(1) == val(1, train_size=5) == val(1, val_size=10)
    assert len({tuple(val(seed)) for seed in range(10)}) == 10
    before = torch.get_rng_state()
    val(3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("source", ["train", "test"])
@pytest.mark.parametrize("seed", range(3))
def test_a_smaller_training_set_is_part_of_a_larger_one_and_never_validates(source, seed):
    def data(size):
        cfg = options(train_size=size, val_source=source)
        return divide(cfg, splits(UNEVEN, test=[0, 1, 2]), seed)

    small, large, every = (data(size) for size in (20, 60, None))
    assert len(small.train) == 20 and set(numbers(small.train)) < set(numbers(large.train))
    assert set(numbers(large.train)) < set(numbers(every.train))
    assert numbers(small.val) == numbers(every.val) and not set(numbers(every.train)) & set(numbers(small.val))


def test_a_published_validation_split_is_used():
    published = splits([0, 1] * 10, val=[0, 1] * 4, test=[0, 1] * 3)
    data = divide(options(), published, 0)
    assert (numbers(data.train), numbers(data.val)) == (list(range(20)), list(range(20, 28)))
    some = divide(options(val_size=4), published, 0).val
    assert set(numbers(some)) < set(range(20, 28)) and Counter(labels_of(some)) == {0: 2, 1: 2}


def test_with_the_test_split_as_validation_nothing_is_held_out():
    published = splits([0, 1] * 10, val=[0, 1] * 4, test=[0, 1] * 3)
    data = divide(options(val_source="test"), published, 0)
    assert numbers(data.train) == list(range(28)) and data.val is data.test
    assert numbers(data.val) == list(range(10_000, 10_006))


def test_the_images_that_test_are_the_same_for_every_seed():
    published = splits(UNEVEN, test=[0, 1, 2] * 20)
    parts = [divide(options(test_size=9), published, seed).test for seed in range(5)]
    assert len({tuple(numbers(part)) for part in parts}) == 1
    assert Counter(labels_of(parts[0])) == {0: 3, 1: 3, 2: 3}


def test_stratified_gives_sorted_distinct_indices():
    drawn = stratified(torch.tensor([1, 0] * 50), 30, "a").tolist()
    assert drawn == sorted(set(drawn)) and len(drawn) == 30
    assert drawn != stratified(torch.tensor([1, 0] * 50), 30, "b").tolist()


KINDS = {"digits": 8, "fashion_mnist": 6, "synthetic": 8, "image_folder": 8}


@pytest.mark.parametrize("seed", [0, 1, 233])
@pytest.mark.parametrize("name", KINDS)
def test_no_image_is_in_two_parts_whatever_the_kind(name, seed, config, spec, idx_folder, image_tree):
    root = {"fashion_mnist": idx_folder()[0], "image_folder": image_tree}.get(name, "data")
    data = load_data(config(name, root=root, val_fraction=0.3), spec(KINDS[name]), seed)
    images = [part[i][0] for part in (data.train, data.val) for i in range(len(part))]
    seen = Counter(image.numpy().tobytes() for image in images)
    repeated = sum(count - 1 for count in seen.values())
    assert repeated <= (10 if name == "digits" else 0)  # a few digits are equal in the source
    for part in filter(None, (data.train, data.val, data.test)):
        assert list(part.labels) == labels_of(part)


def test_digits_validate_in_proportion(config, spec):
    data = load_data(config("digits"), spec(8), 5)
    assert (len(data.train), len(data.val), len(data.test)) == (1293, 144, 360)
    train = Counter(labels_of(data.train)) + Counter(labels_of(data.val))
    assert all(abs(n - train[label] * 144 / 1437) < 1 for label, n in Counter(labels_of(data.val)).items())
