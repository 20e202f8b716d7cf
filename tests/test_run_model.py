"""A finished run's model from outside: predicted with, evaluated, exported, trained on."""

import csv
import importlib
import json
import os
import re
import shutil
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.test_train_cli import TINY, call, run
from wasi.data.decode import read_rgb, to_tensor
from wasi.data.normalize import Normalize
from wasi.errors import UserError
from wasi.evaluate import _refuse_another_division
from wasi.models.saved import open_model
from wasi.output_file import check_output_file
from wasi.runs.command import run_cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("predict", "evaluate", "export")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def wasi(monkeypatch, capsys):
    """`wasi("predict", RUN, IMAGE)`: what `python -m wasi.predict RUN IMAGE` does, in this process."""

    def called(command: str, *words: object) -> Done:
        module = importlib.import_module(f"wasi.{command}" + (".__main__" if command == "export" else ""))
        monkeypatch.setattr(sys, "argv", [command, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_cli(module.main)
        return Done(ended.value.code, *capsys.readouterr())

    return called


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, trained with wasi on digits."""
    folder = tmp_path_factory.mktemp("finished")
    done = run(*TINY, "method=wasi", "method.scope=all", "train.epochs=2", "hydra.run.dir=first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "first"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three images of different sizes and modes, and two files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:28, :28, 0]).save(folder / "deep" / "b.png")
    Image.fromarray(pixels[:10]).save(folder / "deep" / "c.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either, and not called one")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_a_wrong_folder_import_no_torch(command, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy\n"
        f"try: runpy.run_module('wasi.{command}', run_name='__main__', alter_sys=True)\n"
        "finally: print('torch' in sys.modules)"
    )
    extra = {"predict": ["x.png"], "evaluate": [], "export": ["--format", "dense"]}[command]
    output = call([sys.executable, "-c", code, "--help"], tmp_path)
    assert output.returncode == 0 and output.stdout.splitlines()[-1] == "False"
    wrong = call([sys.executable, "-c", code, "nowhere", *extra], tmp_path)
    assert wrong.returncode == 2 and wrong.stdout == "False\n"
    assert wrong.stderr.startswith("error: RUN=nowhere") and len(wrong.stderr.splitlines()) == 1


def test_predictions_are_the_models(finished, photos, tmp_path, wasi):
    done = wasi("predict", finished, photos, "--top", 2, "--csv", tmp_path / "out.csv", "--batch-size", 2)
    assert done.returncode == 1  # for the file that cannot be read
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"error: {photos / 'broken.png'} cannot be read")
    model, header = open_model(finished)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    for path in (photos / "a.png", photos / "deep" / "b.png", photos / "deep" / "c.jpg"):
        images = Normalize(header.input)(to_tensor(read_rgb(path), header.input)[None])
        shares, labels = model(images).softmax(1)[0].sort(descending=True)
        mine = [row for row in rows if row["image"] == str(path)]
        assert [row["class"] for row in mine] == [header.classes[label] for label in labels[:2]]
        found = torch.tensor([float(row["probability"]) for row in mine])
        torch.testing.assert_close(found, shares[:2], rtol=1e-4, atol=1e-6)
        assert f"{path}  {mine[0]['class']} {shares[0]:.4f}" in done.stdout


def test_images_alone_end_in_success(finished, photos, wasi):
    done = wasi("predict", finished / "model.safetensors", photos / "a.png")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_what_may_not_be_looked_at_is_told_after_the_others_are_predicted(
    finished, photos, tmp_path, wasi, monkeypatch
):
    """As root, no permission is missing: a name too long is refused by the system, too, and a folder by hand."""
    scandir, closed, long = os.scandir, str(photos / "deep"), "x" * 300

    def refusing(path):
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (tmp_path / "round.png").symlink_to("round.png")
    words = [photos / "a.png", long, tmp_path / "round.png", closed, "--csv", tmp_path / "out.csv"]
    done = wasi("predict", finished, *words)
    assert done.returncode == 1 and done.stdout.startswith(f"{photos / 'a.png'}  ")
    of_folder, of_long, of_round = done.stderr.splitlines()
    assert of_folder == f"error: {closed} cannot be read: Permission denied"
    assert of_long.startswith(f"error: {long} cannot be read: ") and "File name too long" in of_long
    assert of_round.startswith(f"error: {tmp_path / 'round.png'} cannot be read: ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["{empty}"], "IMAGE={empty}"),
        (["{photos}", "--csv", "{empty}/deep/out.csv"], "--csv={empty}/deep/out.csv"),
        (["{photos}", "--csv", "{empty}"], "--csv={empty}: allowed is a file in a folder that exists"),
        (["{photos}", "--csv", "/dev/full"], "--csv=/dev/full: allowed is a file in a folder that exists"),
        (["{photos}", "--csv", "{empty}/result.json"], "--csv={empty}/result.json: allowed is a name that no run's"),
        (["{photos}", "--csv", "/proc/x"], "--csv=/proc/x: allowed is a file that can be written (No such file"),
        (["{photos}", "--csv", f"{{empty}}/{'a' * 250}"], "allowed is a file that can be written (File name too long)"),
    ],
)
def test_what_predict_refuses(words, named, finished, photos, tmp_path, wasi):
    names = {"empty": tmp_path, "photos": photos}
    done = wasi("predict", finished, *(word.format(**names) for word in words))
    assert done.returncode == 2 and named.format(**names) in done.stderr and len(done.stderr.splitlines()) == 1


def test_evaluation_is_the_runs_own(finished, wasi):
    metrics = json.loads((finished / "result.json").read_text())["metrics"]
    done = wasi("evaluate", finished)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    split = lines[0].split(", ")[1].split()[0]
    assert lines[1] == f"{split}/acc {metrics[f'{split}/acc']:.4f}"
    assert abs(float(lines[2].split()[1]) - metrics[f"{split}/loss"]) < 2e-4
    assert lines[3].startswith(f"{split}/balanced_acc ")


def test_evaluation_on_other_data(finished, tmp_path, wasi):
    """A class of the folder is the output of its name, wherever it stands among the folder's."""
    for split in ("train", "val"):
        for name in ("7", "3"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    done = wasi("evaluate", finished, "dataset=image_folder", f"dataset.root={tmp_path / 'data'}")
    assert done.returncode == 0, done.stderr
    model, header = open_model(finished)
    spec, right = header.input, []
    for name in ("3", "7"):
        for path in sorted((tmp_path / "data" / "val" / name).iterdir()):
            logits = model(Normalize(spec)(to_tensor(read_rgb(path), spec)[None]))
            right.append(header.classes[logits.argmax()] == name)
    assert f"/acc {sum(right) / 4:.4f}" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dataset=synthetic"], "dataset=synthetic: allowed is a data set of the model's classes"),
        (["dataset=nothing"], "dataset=nothing"),
        (["dataset=a,b"], "dataset=a,b: allowed is one value, or a value with such characters in quotes"),
        (["dataset=0.5"], "dataset=0.5: allowed is cifar10, "),
        (["dataset.nothing=1"], "dataset.nothing=1"),
        (["+dataset.nothing=1"], "OVERRIDE=+dataset.nothing=1: allowed is dataset=NAME, "),
        (["dataset.image_size=32"], "dataset.image_size=32: allowed is 28"),
        (["rank=eps_0.4"], "OVERRIDE=rank=eps_0.4"),
        (["dataset.hflip=0.5"], "dataset.hflip=0.5: allowed is for train.py and bench_device.py"),
        (["device.dtype=bfloat16"], "device.dtype=bfloat16: allowed is for train.py and bench_device.py"),
        (["dataset.val_size=0"], "dataset.val_size=0"),
        (["dataset.num_workers=999999"], "dataset.num_workers=999999: allowed is at most "),
        (["device.num_threads=100000"], "device.num_threads=100000: allowed is at most "),
    ],
)
def test_what_evaluate_refuses(words, named, finished, wasi):
    done = wasi("evaluate", finished, *words)
    assert done.returncode == 2 and named in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_deleted_working_folder_is_told_and_no_option_blamed(command, finished, tmp_path, wasi, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    done = wasi(command, finished, *(["x.png"] if command == "predict" else []))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: FileNotFoundError: ")
    assert done.stderr.endswith("(the working folder has been deleted)\n")


def test_a_model_alone_is_evaluated_on_data_that_are_named(finished, tmp_path, wasi):
    shutil.copy(finished / "model.safetensors", tmp_path)
    refused = wasi("evaluate", tmp_path)
    assert refused.returncode == 2 and "dataset=NAME" in refused.stderr
    done = wasi("evaluate", tmp_path / "model.safetensors", "dataset=digits")
    assert done.returncode == 0 and "360 images" in done.stdout


def test_export_prints_what_it_made(finished, tmp_path, wasi):
    done = wasi("export", finished, "--format", "dense", "--output", tmp_path / "dense.safetensors")
    assert done.returncode == 0, done.stderr
    assert "MiB" in done.stdout and "largest difference of logits" in done.stdout and "latency" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["dense.safetensors"]
    again = wasi("export", finished, "--format", "dense", "--output", finished / "model.safetensors")
    assert again.returncode == 2 and "--output=" in again.stderr
    for words in (("--output", tmp_path / "m.onnx"), ("--format", "dense", "--output", tmp_path / "m.pt2")):
        refused = wasi("export", finished, *words)
        assert refused.returncode == 2 and "--output=" in refused.stderr and not words[-1].exists()


def test_training_goes_on_from_a_run(finished, tmp_path):
    """With a step of no length, the second run ends where the first did, at the ranks that the first had."""
    words = [*TINY, "method=wasi", "method.scope=all", "train.epochs=1", f"model.weights={finished}"]
    words += ["rank.weight_epsilon=0.3", "optimizer.lr=1e-9", "train.save=none"]
    done = run(*words, "hydra.run.dir=second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = finished, tmp_path / "second"
    first, second = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert second["metrics"]["val/loss"] == pytest.approx(first["metrics"]["val/loss"], rel=1e-4)
    ranks = [[layer["weight_rank"] for layer in result["layers"]] for result in (first, second)]
    assert ranks[0] == ranks[1]
    assert not (tmp_path / "second" / "model.safetensors").exists()  # as asked for
    other = run(*TINY, "model=deit_tiny_patch16_224", f"model.weights={finished}", cwd=tmp_path)
    assert other.returncode == 2 and "this one's model is vit_micro" in other.stderr


def test_a_pipe_is_told_and_not_waited_for(finished, photos, tmp_path, wasi):
    os.mkfifo(tmp_path / "pipe.png")
    done = wasi("predict", finished, tmp_path)
    assert done.returncode == 1
    reason = "it is a folder, a pipe or a device, not a file"
    assert done.stderr == f"error: {tmp_path / 'pipe.png'} cannot be read: {reason}\n"


def test_an_image_is_not_replaced_by_the_table(finished, tmp_path, wasi):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    done = wasi("predict", finished, tmp_path, "--csv", tmp_path / "a.png")
    assert done.returncode == 2
    assert done.stderr == f"error: --csv={tmp_path / 'a.png'}: allowed is another file than the images\n"
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_model_that_was_made_smaller_in_float16_is_opened(finished, tmp_path, wasi):
    with safe_open(finished / "model.safetensors", framework="pt") as file:
        state, header = {key: file.get_tensor(key).half() for key in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(state, tmp_path / "half.safetensors", header)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = wasi("predict", tmp_path / "half.safetensors", tmp_path / "a.png")
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path / 'a.png'}  ")


def test_a_run_s_model_is_not_replaced_but_a_file_of_its_name_elsewhere_is_written(finished, photos, tmp_path, wasi):
    before = (finished / "model.safetensors").read_bytes()
    refused = wasi("predict", finished, photos / "a.png", "--csv", finished / "model.safetensors")
    assert refused.returncode == 2 and "allowed is a name that no run's own file has" in refused.stderr
    assert (finished / "model.safetensors").read_bytes() == before
    files = [path for path in finished.rglob("*") if path.is_file()]
    for file in files:
        with pytest.raises(UserError, match="that no run's own file has"):
            check_output_file("--csv", file)
    done = wasi("export", finished, "--format", "dense", "--output", tmp_path / "model.safetensors")
    assert done.returncode == 0 and (tmp_path / "model.safetensors").exists()


def test_a_file_name_that_is_no_utf_8_is_told(finished, photos, tmp_path, wasi):
    shutil.copy(photos / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    done = wasi("predict", finished, tmp_path, "--csv", tmp_path / "out.csv")
    assert done.returncode == 0 and "caf\\xe9.png" in done.stdout
    assert "caf\\xe9.png,1," in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_a_line_feed_in_a_file_name_stays_in_the_csv_file_and_breaks_no_line(finished, photos, tmp_path, wasi):
    shutil.copy(photos / "a.png", tmp_path / "two\nlines, \"x\".png")
    done = wasi("predict", finished, tmp_path, "--top", 1, "--csv", tmp_path / "out.csv")
    first, _ = done.stdout.splitlines()
    assert first.startswith(f'{tmp_path}/two\\nlines, "x".png  ')
    with open(tmp_path / "out.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f'{tmp_path}/two\nlines, "x".png']


@pytest.fixture(scope="module")
def of_photos(tmp_path_factory):
    """A run that was trained on an undivided folder of two classes, `photos`, which lies beside it."""
    folder = tmp_path_factory.mktemp("of_photos")
    made_of_colours(folder / "photos", range(20))
    words = [word for word in TINY if not word.startswith("dataset")]
    words += ["dataset=image_folder", f"dataset.root={folder / 'photos'}", "dataset.batch_size=8", "method=wasi"]
    words += ["dataset.val_fraction=0.2", "train.epochs=1", "train.memory=lean", "hydra.run.dir=run"]
    done = run(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def made_of_colours(root: Path, shades: range) -> Path:
    for name in ("red", "blue"):
        (root / name).mkdir(parents=True)
        for shade in shades:
            colour = (200, shade, 0) if name == "red" else (0, shade, 200)
            Image.new("RGB", (8 + shade, 8), colour).save(root / name / f"{shade}.png")
    return root


def test_training_goes_on_with_other_classes_and_few_photos(of_photos, tmp_path):
    made_of_colours(tmp_path / "other", range(8))
    (tmp_path / "other" / "red").rename(tmp_path / "other" / "green")
    words = [word for word in TINY if not word.startswith(("dataset", "model.weights"))]
    words += [f"model.weights={of_photos}", "dataset=image_folder", "dataset.root=other", "dataset.batch_size=8"]
    words += ["method=wasi", "method.init=output", "method.calibration_batches=9", "train.epochs=1"]
    done = run(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = (tmp_path / "run" / "train.log").read_text()
    assert "that model has other classes, so the head is new" in output
    assert "calibration_batches=9: there are 13 training images, so 2 at dataset.batch_size=8" in output


def test_the_peak_that_a_run_tells_is_of_all_its_processes_and_kept(of_photos):
    log = (of_photos / "train.log").read_text()
    output = re.search(r"trained in (\d+) MiB, the resident peak of the whole process\n", log)
    kept = json.loads((of_photos / "result.json").read_text())["metrics"]["memory/process_rss_peak_mib"]
    assert output and round(kept) == int(output[1])


def test_all_images_of_another_folder_count(of_photos, tmp_path, wasi):
    other = made_of_colours(tmp_path / "other", range(30, 38))
    for words in (["dataset=image_folder"], []):
        done = wasi("evaluate", of_photos, *words, f"dataset.root={other}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "image_folder, all 16 images"
    asked = wasi("evaluate", of_photos, f"dataset.root={other}", "dataset.test_size=4")
    assert asked.stdout.startswith("image_folder, test split, 4 of 16 images\n")
    single = made_of_colours(tmp_path / "single", range(30, 31))  # too few to be divided
    assert wasi("evaluate", of_photos, f"dataset.root={single}").stdout.startswith("image_folder, all 2 images\n")


def test_images_that_trained_are_never_evaluated_on(of_photos, tmp_path, wasi):
    own = of_photos.parent / "photos"
    shutil.copytree(own, tmp_path / "copy")
    tested = "image_folder, test split, 8 of 40 images\n"
    evaluated = [wasi("evaluate", of_photos).stdout]
    for root in (own, tmp_path / "copy"):
        evaluated.append(wasi("evaluate", of_photos, "dataset=image_folder", f"dataset.root={root}").stdout)
    assert evaluated[0].startswith(tested) and set(evaluated) == {evaluated[0]}


def test_its_own_folder_is_refused_once_it_has_other_images(of_photos, wasi):
    added = of_photos.parent / "photos" / "red" / "added.png"
    shutil.copy(added.with_name("3.png"), added)
    try:
        done = wasi("evaluate", of_photos)
    finally:
        added.unlink()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "allowed is this folder only with the 40 images of the run, now there are 41" in done.stderr


@pytest.mark.parametrize("option", ["dataset.test_size=16", "dataset.val_fraction=0.5"])
def test_its_own_folder_is_not_divided_anew(option, of_photos, wasi):
    done = wasi("evaluate", of_photos, option)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert option in done.stderr and "evaluated on images that it was trained on" in done.stderr


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        ([""], ["dataset.test_size", "dataset.val_fraction"]),
        (["train"], ["dataset.val_size", "dataset.val_fraction", "seed"]),
        (["train", "val"], []),
        (["train", "test"], []),
        (["", "test"], []),
    ],
    ids=str,
)  # fmt: skip
def test_only_options_that_move_images_between_training_and_evaluation_are_refused(parts, refused, tmp_path):
    for part in parts:
        made_of_colours(tmp_path / "photos" / part, range(10))
    before = {"seed": 0, "dataset": {"name": "image_folder", "root": str(tmp_path / "photos"), "download": False}}
    before["dataset"] |= {"train_size": None, "val_size": None, "test_size": None, "val_fraction": 0.1}
    for option in ("seed", *(f"dataset.{name}" for name in ("train_size", "val_size", "test_size", "val_fraction"))):
        cfg = OmegaConf.create(before)
        OmegaConf.update(cfg, option, 0.5 if option.endswith("fraction") else 7)
        with pytest.raises(UserError) if option in refused else nullcontext():
            _refuse_another_division(cfg, before, {option}, None)


def test_another_seed_gives_the_same_test_images(of_photos, wasi):
    assert wasi("evaluate", of_photos, "seed=7").stdout == wasi("evaluate", of_photos).stdout != ""


@pytest.mark.parametrize("root", ["nowhere", "null"])
def test_a_folder_that_is_not_there_is_refused(root, of_photos, wasi):
    done = wasi("evaluate", of_photos, "dataset=image_folder", f"dataset.root={root}")
    assert done.returncode == 2 and f"dataset.root={root}" in done.stderr and len(done.stderr.splitlines()) == 1
