"""A start from a run's model: whether images that are held out now have trained it."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from wasi.data.catalogue import dataset_identity
from wasi.runs.result import write_json
from wasi.runs.training_data import parts_seen


def _config(name, seed=0, **changes):
    sizes = {"train_size": None, "val_size": None, "test_size": None, "val_fraction": 0.1, "val_source": "train"}
    data = {"name": name, "root": "data", "download": False, **sizes, **changes}
    return OmegaConf.create({"seed": seed, "dataset": data})


def _run(folder, cfg):
    folder.mkdir()
    content = dataset_identity(cfg.dataset)["content"]
    write_json(folder / "result.json", {"config": OmegaConf.to_container(cfg), "provenance": {"data": content}})
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"train_size": 20}, []),
        ({"test_size": 20}, []),  # the test split is published
        ({"seed": 1}, ["val"]),
        ({"val_fraction": 0.2}, ["val"]),
        ({"seed": 1, "val_source": "test"}, []),
    ],
)
def test_digits(tmp_path, changes, expected):
    assert parts_seen(_run(tmp_path / "run", _config("digits")), _config("digits", **changes)) == expected


def test_the_share_to_hold_out_counts_where_no_size_is_given(tmp_path):
    run = _run(tmp_path / "run", _config("digits", val_size=100))
    assert parts_seen(run, _config("digits", val_size=100, val_fraction=0.2)) == []
    assert parts_seen(run, _config("digits", val_size=200)) == parts_seen(run, _config("digits")) == ["val"]


def test_a_run_that_was_validated_on_test_images_has_trained_on_all_others(tmp_path):
    run = _run(tmp_path / "run", _config("flowers102", val_source="test"))
    assert parts_seen(run, _config("flowers102")) == ["val"]
    assert parts_seen(run, _config("flowers102", val_source="test", seed=1)) == []
    assert parts_seen(run, _config("pets")) == [] == parts_seen(tmp_path / "no run", _config("flowers102"))


def test_a_folder_that_has_grown_is_divided_otherwise(tmp_path):
    def add(root, count):
        for number in range(count):
            for label in "ab":
                (root / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 4), number, np.uint8)).save(root / label / f"{number}.png")

    add(tmp_path / "photos", 20)
    cfg = _config("image_folder", root=str(tmp_path / "photos"))
    run = _run(tmp_path / "run", cfg)
    assert parts_seen(run, cfg) == []
    assert parts_seen(run, _config("image_folder", 1, root=cfg.dataset.root)) == ["val"]
    assert parts_seen(run, _config("image_folder", root=cfg.dataset.root, test_size=7)) == ["test", "val"]
    add(tmp_path / "others", 10)
    assert parts_seen(run, _config("image_folder", root=str(tmp_path / "others"))) == []
    add(tmp_path / "photos", 21)
    assert parts_seen(run, cfg) == ["test", "val"]
    write_json(run / "result.json", {"config": OmegaConf.to_container(cfg)})
    assert parts_seen(run, cfg) == []  # as in evaluation, where a result does not tell the images
