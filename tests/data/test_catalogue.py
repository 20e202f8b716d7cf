import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from wasi.data import digits
from wasi.data.catalogue import NAMES, dataset_identity, load_data
from wasi.data.fashion_mnist import DEBIAN_FOLDER
from wasi.errors import UserError


def items(dataset):
    return [dataset[i] for i in range(len(dataset))]


def test_digits_are_scikit_learns_in_its_order(config, spec):
    data, raw = load_data(config("digits", val_source="test"), spec(8), seed=0), load_digits()
    assert (len(data.train), len(data.val), data.num_classes) == (1437, 360, 10)
    assert data.classes == [str(c) for c in range(10)]
    labels = [label for _, label in items(data.train) + items(data.val)]
    assert labels == raw.target.tolist()
    first_val = np.rint(raw.images[1437] * 255 / 16)
    assert np.array_equal(data.val[0][0][1].numpy(), first_val)
    assert max(int(image.max()) for image, _ in items(data.train)) == 255


def test_digits_come_from_the_library_where_its_file_is_elsewhere(monkeypatch):
    values, labels = digits.read()
    monkeypatch.setattr(digits, "_FILE", "nowhere.csv")
    values2, labels2 = digits.read()
    assert np.array_equal(values, values2) and np.array_equal(labels, labels2)


@pytest.mark.parametrize("size", [8, 28, 33])
def test_images_have_the_models_size(config, spec, size):
    image, label = load_data(config("digits", train_size=3, val_size=2), spec(size, "bicubic"), 0).train[0]
    assert image.shape == (3, size, size) and image.dtype == torch.uint8 and isinstance(label, int)


def test_the_seed_fixes_which_images_are_used(config, spec):
    def chosen(size, seed, split="train", source="train"):
        cfg = config("digits", **{f"{split}_size": size, "val_source": source})
        return [image.numpy().tobytes() for image, _ in items(getattr(load_data(cfg, spec(8), seed), split))]

    assert chosen(40, 1) == chosen(40, 1)
    assert set(chosen(40, 1)) != set(chosen(40, 2))
    assert set(chosen(10, 1)) < set(chosen(40, 1))
    assert len(set(chosen(300, 1))) > 290  # without replacement (a few digits are equal in the source)
    assert set(chosen(40, 1, "val")) != set(chosen(40, 2, "val"))
    assert chosen(1437, 1, source="test") == chosen(None, 2, source="test")


@pytest.mark.parametrize(
    ("option", "limit", "reason", "others"),
    [
        ("train_size", 1437, r"images in the training split of digits\)", {"val_source": "test"}),
        ("val_size", 360, r"images in the test split of digits\)", {"val_source": "test"}),
        ("train_size", 1293, r"images in the training split of digits, 144 of which validate\)", {}),
        ("train_size", 1400, r"images in the training split of digits, 37 of which validate\)", {"val_size": 37}),
        ("val_size", 1427, "of the 1437 images of digits, so every class keeps one to train", {}),
        ("test_size", 360, r"images in the test split of digits\)", {}),
    ],
)
def test_more_images_than_there_are_is_refused(config, spec, option, limit, reason, others):
    with pytest.raises(UserError, match=rf"^dataset.{option}={limit + 1}: allowed is at most {limit} .?{reason}$"):
        load_data(config("digits", **{option: limit + 1, **others}), spec(8), 0)
    assert len(getattr(load_data(config("digits", **{option: limit, **others}), spec(8), 0), option[:-5])) == limit


def test_a_fraction_that_would_take_the_last_image_of_a_class_is_refused(config, spec):
    with pytest.raises(UserError, match="^dataset.val_fraction=0.999: allowed is a share .* at most 1427 "):
        load_data(config("digits", val_fraction=0.999), spec(8), 0)


def test_an_unknown_name_is_refused(config, spec):
    with pytest.raises(UserError, match="dataset.name=mnist: allowed is cifar10, .*synthetic"):
        load_data(config("digits", name="mnist"), spec(8), 0)


def test_a_missing_root_is_refused(config, spec):
    with pytest.raises(UserError, match="dataset.root=null"):
        load_data(config("image_folder", root=None), spec(8), 0)


def test_every_data_set_has_its_group_with_the_same_keys(config):
    keys = ["name", "root", "download", "train_size", "val_size", "test_size", "val_source", "val_fraction"]
    keys += ["image_size", "batch_size", "hflip", "num_workers"]
    folder = Path(__file__).parents[2] / "conf" / "dataset"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted(NAMES)
    for name in NAMES:
        cfg = config(name)
        assert list(cfg) == keys
        assert (cfg.name, cfg.batch_size, cfg.download, cfg.root) == (name, 128, False, "data")
        assert (cfg.val_source, cfg.val_fraction, cfg.test_size) == ("train", 0.1, None)
        assert cfg.hflip == (0.0 if name in ("digits", "fashion_mnist", "synthetic") else 0.5)


def test_loading_leaves_the_global_random_state_alone(config, spec):
    before = torch.get_rng_state()
    for name in ("digits", "synthetic"):
        load_data(config(name, train_size=5, val_size=5), spec(8), 0).train[0]
    assert torch.equal(before, torch.get_rng_state())


def test_what_composition_needs_imports_nothing_heavy():
    code = (
        "import sys; import wasi.data.catalogue; "
        "print([m for m in ('torch', 'torchvision', 'PIL', 'sklearn', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_json_able_for_every_data_set_and_absent_where_it_is(config, tmp_path, name):
    content = dataset_identity(config(name, root=tmp_path / "nowhere"))
    assert json.loads(json.dumps(content)) == content
    assert (content["content"] == "absent") == (name in ("image_folder", "fashion_mnist"))


def test_it_is_distinct_for_distinct_data(config, tmp_path):
    texts = {json.dumps(dataset_identity(config(name, root=tmp_path))) for name in NAMES}
    assert len(texts) == len(NAMES)


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"train_size": 5}, True),
        ({"val_size": 5}, True),
        ({"test_size": 5}, True),
        ({"val_fraction": 0.2}, True),
        ({"val_source": "test"}, True),
        ({"image_size": 32}, True),
        ({"batch_size": 7}, True),
        ({"hflip": 0.25}, True),
        ({"num_workers": 3}, False),
        ({"download": True}, False),
        ({"root": "elsewhere"}, False),
    ],
)
def test_how_images_are_used_counts_and_where_they_come_from_does_not(config, change, counts):
    assert (dataset_identity(config("cifar10")) != dataset_identity(config("cifar10", **change))) == counts


def test_an_image_folder_is_its_list_of_images_and_sizes(config, image_tree, tmp_path):
    def now(root=image_tree):
        return dataset_identity(config("image_folder", root=root))

    first = now()
    assert first["content"]["images"] == 10
    shutil.copytree(image_tree, tmp_path / "copy")
    assert now(tmp_path / "copy") == first
    (image_tree / "train" / "cat" / "Thumbs.db").write_bytes(b"12345")
    (image_tree / "train" / "cat" / "._0.jpg").write_bytes(b"12345")
    (image_tree / "other").mkdir()
    shutil.copy(image_tree / "train" / "cat" / "0.jpg", image_tree / "other" / "0.jpg")
    assert now() == first
    (image_tree / "train" / "cat" / "0.jpg").rename(image_tree / "train" / "cat" / "00.jpg")
    renamed = now()
    assert renamed != first
    Image.new("RGB", (99, 99)).save(image_tree / "train" / "cat" / "00.jpg")
    changed = now()
    assert changed != renamed
    shutil.move(image_tree / "val" / "cat" / "0.jpg", image_tree / "val" / "dog" / "9.jpg")
    assert now() != changed


def test_an_image_folder_that_cannot_be_read_is_absent(config, image_tree):
    os.symlink("/nonexistent", image_tree / "val" / "cat" / "x.jpg")
    assert dataset_identity(config("image_folder", root=image_tree))["content"] == "absent"


def test_fashion_mnist_is_its_content_compressed_or_not(config, idx_folder, tmp_path):
    plain, _ = idx_folder(tmp_path / "plain" / "FashionMNIST" / "raw")
    packed, _ = idx_folder(tmp_path / "packed", gz=True)
    first = dataset_identity(config("fashion_mnist", root=tmp_path / "plain"))
    assert first == dataset_identity(config("fashion_mnist", root=packed))
    path = packed / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    assert first != dataset_identity(config("fashion_mnist", root=packed))


def test_fashion_mnist_is_the_same_before_and_after_its_download(config, tmp_path):
    before = dataset_identity(config("fashion_mnist", root=tmp_path, download=True))
    assert before["content"] != "absent"
    if not (DEBIAN_FOLDER / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    assert before == dataset_identity(config("fashion_mnist", root=DEBIAN_FOLDER))


def test_broken_files_never_raise(config, idx_folder):
    folder, _ = idx_folder(gz=True)
    for path in folder.iterdir():
        path.write_bytes(b"xy")
    assert dataset_identity(config("fashion_mnist", root=folder))["content"] == "absent"
    assert dataset_identity({"name": "image_folder", "root": None})["content"] == "absent"


def test_loading_what_needs_no_torchvision_does_not_import_it(idx_folder):
    code = f"""
import sys
from omegaconf import OmegaConf
from wasi.data.catalogue import load_data
from wasi.data.spec import InputSpec
for name in ("digits", "synthetic", "fashion_mnist"):
    cfg = OmegaConf.load(f"conf/dataset/{{name}}.yaml")
    cfg.root = {str(idx_folder()[0])!r}
    load_data(cfg, InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bilinear"), 0).train[0]
print([m for m in ("torchvision", "sklearn", "PIL") if m in sys.modules])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
