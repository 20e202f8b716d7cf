"""Files that are either old or new."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from wasi.atomic import remove_leftovers, replacing, replacing_from_folder


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as error, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())


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
    (left,) = tmp_path.glob("*.tmp")
    own, dead = f"-{os.getpid()}-", left.name.split("-")[-2]
    others = [left.name.replace(f"-{dead}-", own), left.name.replace(".file.", ".file2."), ".file.mine.tmp"]
    others += [f".file.another-{dead}-1.tmp", f".file.{dead}.tmp"]  # of another machine, or of none that is told
    for other in others:
        (tmp_path / other).touch()
    remove_leftovers(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted(["file", *others])


def test_two_writers_of_one_file_have_temporary_files_of_their_own(tmp_path, monkeypatch):
    path, names = tmp_path / "file", set()

    def write(machine):
        monkeypatch.setattr(platform, "node", lambda: machine)
        with replacing(path) as temporary:
            names.add(temporary.name)
            if machine == "one":
                write("two.example.org")
            elif machine == "two.example.org":
                thread = threading.Thread(target=write, args=["two_example_org"])  # the same in a file's name
                thread.start()
                thread.join()
            temporary.write_text(machine)

    write("one")
    assert len(names) == 3 and path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


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
