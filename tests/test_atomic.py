"""Files that are either old or new."""

import os
import signal
import subprocess
import sys

import pytest

from wasi.atomic import remove_leftovers, replacing, replacing_from_folder


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, signal, sys, pathlib\n"
        "from wasi.atomic import remove_leftovers, replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    others = [tmp_path / f".file.{os.getpid()}.tmp", tmp_path / ".file.mine.tmp", tmp_path / ".file2.1.tmp"]
    for other in others:
        other.touch()
    remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_a_library_s_own_temporary_file_goes_with_the_folder_around_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, signal, sys, pathlib\n"
        "from wasi.atomic import replacing_from_folder\n"
        "with replacing_from_folder(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.with_name('.tmph58j3f').write_text('ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    remove_leftovers(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError), replacing_from_folder(path) as temporary:
        temporary.with_name(".tmph58j3f").write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replaces", [replacing, replacing_from_folder])
def test_the_new_file_has_the_usual_mode_whoever_wrote_it(replaces, tmp_path):
    (tmp_path / "usual").touch()
    with replaces(tmp_path / "file") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "usual"]
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode
