"""The folder that a run writes into."""

import os
from pathlib import Path

import pytest

import wasi
from wasi.errors import UserError
from wasi.runs import folder
from wasi.runs.folder import check_folder, check_inside, check_working_folder, files_below, make_folder, sweep_of

PACKAGE = wasi.__path__[0]


@pytest.mark.parametrize("given", ["", " ", ".", "file", "file/inside", PACKAGE, f"{PACKAGE}/runs/new"])
def test_refused(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^hydra\.run\.dir=.*: allowed is a folder") as error:
        check_folder("hydra.run.dir", given)
    assert "\n" not in str(error.value)


def test_one_that_cannot_be_written_into(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match="can be written into"):
        check_folder("hydra.run.dir", str(tmp_path / "new"))


def test_one_that_the_system_does_not_make(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^hydra\.run\.dir=.*: allowed is a folder that can be made .*\(Not a direct"):
        make_folder("hydra.run.dir", str(tmp_path / "file" / "inside"))
    with pytest.raises(UserError, match=r"can be made and written into \(File name too long\)"):
        check_folder("hydra.run.dir", str(tmp_path / ("a" * 300)))

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "TemporaryFile", refused)  # as for root in /sys
    with pytest.raises(UserError, match=r"can be made and written into \(Permission denied\)"):
        make_folder("hydra.run.dir", str(tmp_path / "new"))


def test_a_home_folder_that_no_shell_has_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=rf"^hydra\.run\.dir=~/new: allowed is .* such as {tmp_path}/new$"):
        check_folder("hydra.run.dir", "~/new")


def test_one_that_is_made(tmp_path):
    for _ in range(2):
        make_folder("hydra.run.dir", str(tmp_path / "a" / "b"))
        assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("given", ["/proc/x", "../x", "a/../../x"])
def test_a_folder_inside_another_lies_there(given):
    with pytest.raises(UserError, match=r"^hydra\.output_subdir=.*: allowed is a name inside "):
        check_inside("hydra.output_subdir", given)
    for inside in (None, ".hydra", "a/b", "${job_folder:}"):
        check_inside("hydra.output_subdir", inside)


@pytest.mark.parametrize("given", ["model.safetensors", "result.json/a", "train.log", ".lock", "checkpoint.pt"])
def test_a_folder_inside_another_has_no_name_of_a_file_there(given):
    with pytest.raises(UserError, match=r"^hydra\.output_subdir=.*: allowed is a name that no file of a run "):
        check_inside("hydra.output_subdir", given)


@pytest.mark.parametrize("given", ["outputs/new", "."])
def test_allowed(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    check_folder("hydra.run.dir", str(tmp_path / "there") if given == "." else given)


def test_a_sweep_may_be_told_by_its_name_below_multirun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("multirun/mine").mkdir(parents=True)
    assert sweep_of("SWEEP")("mine") == Path("multirun/mine")
    assert sweep_of("SWEEP")("other") == Path("other")
    Path("mine").mkdir()
    assert sweep_of("SWEEP")("mine") == Path("mine")
    with pytest.raises(UserError, match="SWEEP"):
        sweep_of("SWEEP")(" ")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch):
    for name in ("b/result.json", "a/x/result.json", "a/bench.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_below(tmp_path, "result.json") == [tmp_path / "a/x/result.json", tmp_path / "b/result.json"]
    assert files_below(tmp_path / "b/result.json", "*.json") == files_below(tmp_path / "none", "*.json") == []
    scandir = os.scandir

    def refusing(path):
        if Path(path) == tmp_path / "a/x":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may list every folder
    with pytest.raises(PermissionError):
        files_below(tmp_path, "result.json")


def test_a_deleted_working_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_working_folder()
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError):
        check_working_folder()
