"""The folder that a run writes into."""

import pytest

import wasi
from wasi.errors import UserError
from wasi.runs.folder import check_folder

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


@pytest.mark.parametrize("given", ["outputs/new", "."])
def test_allowed(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    check_folder("hydra.run.dir", str(tmp_path / "there") if given == "." else given)
