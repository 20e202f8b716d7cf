import subprocess
import sys

from tests.report import fakes


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_the_command_prints_the_table(tmp_path):
    fakes.sweep(tmp_path, seeds=(0,), epsilons=(0.8,), names=("wasi",))
    done = run("-m", "wasi.report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vit_micro on digits" in done.stdout and (tmp_path / "report.md").is_file()


def test_nothing_to_report_is_one_line_and_status_2(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        done = run("-m", "wasi.report", folder)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: DIR=") and str(folder) in line


def test_import_is_light():
    code = "import sys, wasi.report; print({'torch', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules))"
    assert run("-c", code).stdout.strip() == "set()"
