import logging
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from wasi.data.catalogue import dataset_identity, load_data
from wasi.data.loader import Loader, train_batches
from wasi.errors import UserError


@pytest.fixture
def load(config, spec, image_tree):
    return lambda **changes: load_data(config("image_folder", **{"root": image_tree, **changes}), spec(8), 0)


def refused(load, *parts, **changes):
    with pytest.raises(UserError) as caught:
        load(**changes)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("dataset.root=", *parts):
        assert str(part) in message
    return message


def test_classes_labels_and_sizes(load):
    data = load()
    assert (len(data.train), len(data.val), data.classes) == (6, 4, ["cat", "dog"])
    assert [data.train[i][1] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    image, _ = data.val[3]
    assert image.shape == (3, 8, 8) and image.dtype == torch.uint8
    assert len(load(train_size=2).train) == 2


def test_the_label_is_that_of_the_class_folder(load, image_tree):
    for split in ("train", "val"):
        for path in (image_tree / split / "dog").iterdir():
            Image.new("RGB", (20, 20), (250, 0, 0)).save(path, quality=95)
    for images, labels in train_batches(Loader(load().train), 4, seed=0, epoch=0):
        assert ((images[:, 0].float().mean((1, 2)) > 240) == (labels == 1)).all()


def test_too_many_is_refused(load):
    with pytest.raises(UserError, match="dataset.train_size=7: allowed is at most 6 "):
        load(train_size=7)


def test_what_is_no_image_is_left_alone(load, image_tree):
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._0.jpg", ".hidden.png"):
        (image_tree / "train" / "cat" / name).write_bytes(b"\0\1\2")
    (image_tree / "train" / ".ipynb_checkpoints").mkdir()
    (image_tree / "train" / "__MACOSX" / "cat").mkdir(parents=True)
    (image_tree / "train" / "cat" / "@eaDir" / "0.jpg").mkdir(parents=True)
    shutil.copy(image_tree / "train/cat/0.jpg", image_tree / "train/cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_XL.jpg")
    (image_tree / "readme.md").write_text("hello")
    (image_tree / "train" / "labels.csv").write_text("a,b")
    assert len(load().train) == 6


def test_a_class_folder_whose_name_is_no_utf_8_has_a_name_that_can_be_written(config, spec, undivided):
    root = undivided(cat=9, dog=9)
    os.rename(root / "dog", os.fsencode(root) + b"/caf\xe9")
    data = load_data(config("image_folder", root=root), spec(8), 0)
    assert data.classes == ["caf\\xe9", "cat"] and len(data.train) + len(data.val) + len(data.test) == 18


def test_any_case_of_extension_any_depth_and_links(load, image_tree):
    cat = image_tree / "train" / "cat"
    shutil.copy(cat / "0.jpg", cat / "UPPER.JPG")
    (cat / "deep").mkdir()
    shutil.copy(cat / "0.jpg", cat / "deep" / "x.jpeg")
    os.symlink(cat / "0.jpg", cat / "link.jpg")
    os.symlink(cat, cat / "deep" / "round")  # a circle
    assert len(load().train) == 9


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("this is no image")


def dangling(path):
    path.unlink()
    os.symlink("/nonexistent/file", path)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [truncate, empty, text, dangling, pipe])
@pytest.mark.parametrize("where", ["train/dog/2.jpg", "val/cat/1.jpg"])
def test_an_unreadable_image_is_named_before_training(load, image_tree, damage, where):
    damage(image_tree / where)
    output = refused(load, "1 of ")
    assert output.startswith(f"{image_tree / where} cannot be read: ") and "train/<class>" not in output


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_of_any_kind_is_found(load, image_tree, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = image_tree / "train" / "cat" / f"x.{kind}"
    Image.fromarray(pixels).save(path)
    load()
    truncate(path)
    refused(load, path)


def test_all_unreadable_images_are_named_in_order(load, image_tree):
    for name in ("train/dog/0.jpg", "train/cat/1.jpg"):
        text(image_tree / name)
    output = refused(load, image_tree / "train/cat/1.jpg")
    assert output.index("cat/1.jpg") < output.index("dog/0.jpg") and "more" not in output and "\n" not in output


def test_of_many_unreadable_images_twenty_are_named(load, image_tree):
    for number in range(23):
        text(image_tree / f"train/cat/broken{number:02}.jpg")
    output = refused(load, "broken00.jpg")
    assert "broken19.jpg" in output and "broken20.jpg" not in output and "; and 3 more (dataset.root=" in output


def test_of_an_image_that_is_too_large_its_size_is_told(load, image_tree, monkeypatch):
    monkeypatch.setattr("wasi.data.decode.MAX_PIXELS", 100)
    output = refused(load, "10 of 10 cannot")
    first = image_tree / "train/cat/0.jpg"
    assert output.startswith(f"{first} cannot be read: allowed is an image of at most 100 pixels")


def test_a_damaged_image_that_the_subset_leaves_out_still_counts(load, image_tree):
    for i in range(3):
        text(image_tree / "train" / "cat" / f"{i}.jpg")
    refused(load, "0.jpg", train_size=1)


def test_missing_folders(load, image_tree, tmp_path):
    refused(load, "train/<class>/", tmp_path / "nowhere", root=tmp_path / "nowhere")
    shutil.rmtree(image_tree / "train")
    refused(load, image_tree / "train")


def test_what_the_system_refuses_is_told(load, image_tree, tmp_path, monkeypatch):
    """A folder that cannot be listed is not passed over: its images would be missing without a word."""
    refused(load, "a folder that can be read; ", "File name too long", root=tmp_path / ("x" * 300))
    scandir, closed = os.scandir, image_tree / "train" / "cat" / "deep"
    closed.mkdir()

    def refusing(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    refused(load, f"a folder that can be read; {closed}: Permission denied")


def test_a_file_as_root(load, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(load, tmp_path / "file", root=tmp_path / "file")


@pytest.mark.parametrize("split", ["train", "val"])
def test_different_classes_are_refused(load, image_tree, split):
    shutil.rmtree(image_tree / split / "cat")
    refused(load, "classes must be the same", "cat")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_is_refused(load, image_tree, split):
    for path in (image_tree / split / "cat").iterdir():
        path.rename(path.with_suffix(".txt"))
    refused(load, image_tree / split / "cat", "no image")


def test_a_single_class_is_refused(load, image_tree):
    for split in ("train", "val"):
        shutil.rmtree(image_tree / split / "cat")
    refused(load, "at least 2")


def test_an_image_outside_the_classes_is_refused(load, image_tree):
    shutil.copy(image_tree / "train" / "cat" / "0.jpg", image_tree / "train" / "lost.jpg")
    refused(load, image_tree / "train" / "lost.jpg")


def test_it_cannot_be_downloaded(load):
    with pytest.raises(UserError, match="dataset.download=true"):
        load(download=True)


@pytest.fixture
def undivided(tmp_path):
    """A folder of `ROOT/<class>/*` with so many images of each class; every image has a colour of its own."""

    def make(**counts):
        shade = iter(range(1000))
        for name, count in counts.items():
            (tmp_path / "flat" / name).mkdir(parents=True)
            for i in range(count):
                number = next(shade)
                image = Image.new("RGB", (8, 8), (number % 250, number // 250, 0))
                image.save(tmp_path / "flat" / name / f"{i}.png")
        return tmp_path / "flat"

    return make


def colours(part):
    return [tuple(part[i][0][:, 0, 0].tolist()) for i in range(len(part))]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_undivided_folder_is_divided_by_class_and_says_so(config, spec, undivided, caplog, seed):
    cfg = config("image_folder", root=undivided(cat=95, dog=5))
    with caplog.at_level(logging.INFO):
        data = load_data(cfg, spec(8), seed)
    assert data.classes == ["cat", "dog"]
    assert [Counter(torch.as_tensor(part.labels).tolist()) for part in (data.train, data.val, data.test)] == [
        {0: 78, 1: 3}, {0: 8, 1: 1}, {0: 9, 1: 1}
    ]  # fmt: skip
    everything = colours(data.train) + colours(data.val) + colours(data.test)
    assert len(set(everything)) == len(everything) == 100
    assert "cat 78/8/9, dog 3/1/1" in caplog.text and "81 images train, 9 validate" in caplog.text


def test_an_undivided_folder_tests_on_the_same_images_whatever_the_seed(config, spec, undivided):
    cfg = config("image_folder", root=undivided(cat=20, dog=20))
    one, other = (load_data(cfg, spec(8), seed) for seed in (0, 1))
    assert colours(one.test) == colours(other.test) and colours(one.val) != colours(other.val)


def test_sizes_of_an_undivided_folder(config, spec, undivided):
    root = undivided(cat=10, dog=10, eel=1)
    data = load_data(config("image_folder", root=root, test_size=5, val_size=3, train_size=7), spec(8), 0)
    assert [len(part) for part in (data.train, data.val, data.test)] == [7, 3, 5]
    assert 2 not in [*data.val.labels, *data.test.labels]
    for changes, message in (
        ({"test_size": 19}, "dataset.test_size=19: allowed is at most 18 of the 21 images"),
        ({"test_size": 10, "val_size": 9}, "dataset.val_size=9: allowed is at most 8 of the 11 images"),
        ({"val_fraction": 0.95}, "dataset.val_fraction=0.95: allowed is a share that takes at most 18 of the 21"),
        ({"train_size": 18}, "dataset.train_size=18: allowed is at most 17 "),
    ):
        with pytest.raises(UserError, match=message):
            load_data(config("image_folder", root=root, **changes), spec(8), 0)


def test_a_test_folder_is_used_beside_undivided_classes(config, spec, undivided):
    root = undivided(cat=10, dog=10)
    for name in ("cat", "dog"):
        (root / "test" / name).mkdir(parents=True)
        (root / name / "0.png").rename(root / "test" / name / "0.png")
    data = load_data(config("image_folder", root=root), spec(8), 0)
    assert data.classes == ["cat", "dog"] and [len(p) for p in (data.train, data.val, data.test)] == [16, 2, 2]
    assert set(colours(data.test)) == {(0, 0, 0), (10, 0, 0)}


def test_test_and_validation_folders_are_used_where_they_are(load, image_tree):
    assert load().test is None  # the user has divided the images, without a test
    shutil.copytree(image_tree / "val", image_tree / "test")
    (image_tree / "test" / "cat" / "1.jpg").unlink()
    data = load()
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 3)
    shutil.rmtree(image_tree / "val")
    data = load()
    assert (len(data.train), len(data.val), len(data.test)) == (5, 1, 3)
    (image_tree / "test" / "eel").mkdir()
    refused(load, "only test has eel")


def test_what_needs_a_test_split_is_refused_without_one(load):
    with pytest.raises(UserError, match="dataset.val_source=test: allowed is train"):
        load(val_source="test")
    with pytest.raises(UserError, match="dataset.test_size=2: allowed is null"):
        load(test_size=2)


def test_train_can_be_the_name_of_a_class(config, spec, undivided):
    data = load_data(config("image_folder", root=undivided(bus=10, train=10)), spec(8), 0)
    assert data.classes == ["bus", "train"]


@pytest.mark.parametrize("parts", [{"train": 5, "val": 5}, {"train": 5, "test": 5}])
def test_parts_without_classes_are_no_classes(load, undivided, parts):
    refused(load, "0 class folder(s) found", root=undivided(**parts))


@pytest.mark.parametrize("part", ["val", "test"])
def test_images_without_classes_beside_undivided_classes_are_refused(load, undivided, part):
    root = undivided(cat=5, dog=5, **{part: 3})
    refused(load, f"{root / part} has no class folders", root=root)


def test_test_images_without_labels_are_left_alone(load, image_tree):
    (image_tree / "test").mkdir()
    shutil.copy(image_tree / "train" / "cat" / "0.jpg", image_tree / "test" / "17.jpg")
    data = load()
    assert (len(data.train), len(data.val), data.test) == (6, 4, None)


def test_the_fraction_counts_for_the_fingerprint_where_it_is_read(config, image_tree, undivided):
    def differ(root, **others):
        cfgs = [config("image_folder", root=root, val_fraction=share, **others) for share in (0.1, 0.4)]
        return len({str(dataset_identity(cfg)) for cfg in cfgs}) == 2

    root = undivided(cat=5, dog=5)
    assert differ(root) and differ(root, val_size=2) and differ(root, val_source="test")
    assert not differ(root, val_size=2, test_size=2) and not differ(image_tree)
    shutil.rmtree(image_tree / "val")
    assert differ(image_tree) and not differ(image_tree, val_size=2)


@pytest.mark.parametrize(("name", "part"), [("Val", "val"), ("valid", "val"), ("Testing", "test")])
def test_a_part_of_another_name_is_not_left_out_unseen(load, image_tree, name, part):
    shutil.copytree(image_tree / "val", image_tree / name)
    refused(load, f"{image_tree / name} has class folders; a folder of that part is called {part}")


def test_parts_of_other_names_are_no_classes(load, image_tree):
    for part, name in (("train", "Train"), ("val", "Val")):
        (image_tree / part).rename(image_tree / name)
    refused(load, "a folder of that part is called train")
    shutil.rmtree(image_tree / "Val")
    (image_tree / "Train").rename(image_tree / "roots")
    shutil.copytree(image_tree / "roots" / "cat", image_tree / "training")  # without folders it is a class
    assert load().classes == ["roots", "training"]


def test_classes_without_an_image_to_validate_or_test_on_are_told(config, spec, undivided, caplog):
    root = undivided(cat=1, dog=40)
    load_data(config("image_folder", root=root), spec(8), 0)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        "no validation image of class cat; no test image of class cat: accuracies on these parts, and choices made by "
        "them, say nothing of these classes"
    ]
    caplog.clear()
    shutil.copy(root / "dog" / "0.png", root / "cat" / "1.png")
    shutil.copy(root / "dog" / "0.png", root / "cat" / "2.png")
    load_data(config("image_folder", root=root), spec(8), 0)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_line_feed_in_a_classs_name_breaks_no_line_of_the_log(config, spec, undivided, caplog):
    caplog.set_level("INFO")
    root = undivided(**{"new\nline": 1, "dog": 40})
    assert load_data(config("image_folder", root=root), spec(8), 0).classes == ["dog", "new\nline"]
    told = [record.getMessage() for record in caplog.records]
    assert any("new\\nline 1/0/0" in line for line in told) and any("of class new\\nline" in line for line in told)
    assert not any("\n" in line for line in told)


def test_of_many_such_classes_twenty_are_told(config, spec, undivided, caplog):
    root = undivided(large=40, **{f"class{number:02}": 1 for number in range(23)})
    load_data(config("image_folder", root=root), spec(8), 0)
    (output,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "class19 and 3 more; no test image of class class00," in output and "class20" not in output
