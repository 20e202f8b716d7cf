import gzip
import json
import os
import shutil

import pytest
from PIL import Image

from wasi.data.catalogue import NAMES, dataset_identity
from wasi.data.fashion_mnist import DEBIAN_FOLDER


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
