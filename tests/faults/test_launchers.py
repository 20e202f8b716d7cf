"""Sweeps under joblib, submitit (this machine, and a stand-in for Slurm) and a Ray cluster of one machine."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import psutil
import pytest

from tests.faults.sweeps import outcome, result, run, start

pytestmark = pytest.mark.long
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("submitit", "hydra.launcher.timeout_min=30"),
    "ray": ("ray", "hydra.launcher.ray.remote.num_cpus=1"),
}


def launcher(name):
    package, option = LAUNCHERS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return f"hydra/launcher={name}", option


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one job after another gives: four jobs asked for, three of them different, one refused."""
    folder = tmp_path_factory.mktemp("whole")
    status, _ = run(*SWEEP, cwd=folder)
    assert status == 1
    return outcome(folder / "multirun/s")


SWEEP = ("-m", "sweep=s", "method=vanilla,wasi", "rank=eps_0.6,eps_0.8", "train.micro_batch_size=null,7")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_same_results_report_and_exit_status(name, whole, tmp_path):
    status, output = run(*launcher(name), *SWEEP, cwd=tmp_path)
    found = outcome(tmp_path / "multirun/s")
    assert found == whole and sum(state == "completed" for state, *_ in found.values()) == 3, output
    assert status == 1 and "train.micro_batch_size=7: allowed is a divisor" in output
    assert (tmp_path / "multirun/s/report.md").exists() and "validated against ConfigStore" not in output
    status, output = run(*launcher(name), *SWEEP, cwd=tmp_path)
    assert outcome(tmp_path / "multirun/s") == whole


def test_a_ray_cluster_that_was_started_in_another_folder(tmp_path, monkeypatch):
    launcher("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # Ray 2.60 gives its token only to `address=auto`
    (tmp_path / "elsewhere").mkdir()
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=6390", "--num-cpus=1", "--block"]
    with (
        tempfile.TemporaryDirectory(prefix="ray") as own,  # else a later `address=auto` would look for this cluster
        subprocess.Popen([*words, f"--temp-dir={own}"], cwd=tmp_path / "elsewhere", start_new_session=True) as cluster,
    ):
        try:
            _until(lambda: socket.create_connection(("127.0.0.1", 6390), timeout=1))
            joined = ("hydra/launcher=ray", "hydra.launcher.ray.init.address=127.0.0.1:6390")
            status, output = run(*joined, "-m", "sweep=s", "method=vanilla", "seed=1,2", cwd=tmp_path)
        finally:
            os.killpg(cluster.pid, signal.SIGKILL)
    assert status == 0, output
    assert [state for state, *_ in outcome(tmp_path / "multirun/s").values()] == ["completed"] * 2
    assert not list((tmp_path / "elsewhere").iterdir())


def _until(connected):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return connected().close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError("no cluster began")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_tuned_sweep(name, tmp_path):
    words = ("-m", "hydra/sweeper=tuned", "sweep=s", "method=vanilla", "tune.lr=[0.01,0.05]", "seed=1,2")
    status, output = run(*launcher(name), *words, cwd=tmp_path)
    assert status == 0, output
    assert len(outcome(tmp_path / "multirun/s")) == 3 and "WARNING: tuning" in output


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_commands_of_one_tuned_sweep(name, tmp_path):
    words = ("-m", "hydra/sweeper=tuned", "sweep=s", "method=vanilla", "tune.lr=[0.01,0.05]", "seed=1,2")
    first = start(*launcher(name), *words, cwd=tmp_path)
    while not list((tmp_path / "multirun/s").glob("*/result.json")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    status, output = run(*launcher(name), *words, cwd=tmp_path)
    assert status == 2 and output.count("\nerror: ") == 1, output
    assert "another process is at work in multirun/s" in output
    output, _ = first.communicate(timeout=600)
    assert first.returncode == 0, output
    assert [status for status, *_ in outcome(tmp_path / "multirun/s").values()] == ["completed"] * 3


def _process_of(parent, folder):
    """The process that trains: the only one below that has this run's log open."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if list(folder.glob("*/checkpoint_before.pt")):
            for child in psutil.Process(parent.pid).children(recursive=True):
                if any(file.path.endswith("train.log") for file in child.open_files()):
                    return child
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    raise AssertionError("no job began")


def test_a_preempted_job_is_queued_again_and_resumes(tmp_path):
    words = ("-m", "sweep=s", "method=wasi", "train.epochs=12")
    process = start(*launcher("submitit_local"), *words, cwd=tmp_path)
    _process_of(process, tmp_path / "multirun/s").send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    ((name, found),) = outcome(tmp_path / "multirun/s").items()
    assert result(tmp_path / "multirun/s" / name)["provenance"]["resumed_from_step"] > 0
    assert run(*words[:1], "sweep=whole", *words[2:], cwd=tmp_path)[0] == 0
    assert outcome(tmp_path / "multirun/whole")[name] == found


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_job_whose_process_dies_is_told_and_the_others_end(name, tmp_path):
    words = ("-m", "sweep=s", "method=wasi,vanilla", "train.epochs=12", "train.checkpoint_every=3")
    process = start(*launcher(name), *words, cwd=tmp_path)
    _process_of(process, tmp_path / "multirun/s").kill()
    output, _ = process.communicate(timeout=600)
    states = sorted(status for status, *_ in outcome(tmp_path / "multirun/s").values())
    goes_on = name in ("joblib", "ray")  # which start it again
    assert states == ["completed", "completed" if goes_on else "running"], output
    assert process.returncode == (0 if goes_on else 1) and "Traceback" not in output
    assert goes_on or "its process died" in output
    assert (tmp_path / "multirun/s/report.md").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_a_stopped_sweep_lets_its_jobs_save(name, signum, tmp_path):
    words = ("-m", "sweep=s", "method=wasi", "train.epochs=500", "train.checkpoint_every=100000")
    process = start(*launcher(name), *words, cwd=tmp_path)
    _process_of(process, tmp_path / "multirun/s")
    if signum == signal.SIGHUP:  # a terminal that is closed sends it to all processes
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum and "continue with: " in output
    (path,) = (tmp_path / "multirun/s").glob("*/result.json")
    assert result(path.parent)["status"] == "interrupted"


SLURM = {
    "sbatch": '''
        script = open(sys.argv[-1]).read()
        number = int(open(f"{HERE}/next").read()) if os.path.exists(f"{HERE}/next") else 100
        open(f"{HERE}/next", "w").write(str(number + 1))
        assert "#SBATCH --requeue" in script and "#SBATCH --signal=USR2@120" in script, script
        tasks = int(re.search(r"--array=0-(\\d+)", script).group(1)) + 1 if "--array" in script else 1
        for task in range(tasks):
            open(f"{HERE}/{number}_{task}.state", "w").write("RUNNING")
            subprocess.Popen([sys.executable, f"{HERE}/work.py", str(number), str(task), sys.argv[-1]],
                             stdin=subprocess.DEVNULL, stdout=open(f"{HERE}/log", "a"), stderr=subprocess.STDOUT)
        print("Submitted batch job", number)
    ''',
    "scontrol": '''
        assert sys.argv[1] == "requeue"
        open(f"{HERE}/{sys.argv[2]}.requeue", "w").write("")
    ''',
    "sacct": '''
        print("JobID|State|NodeList")
        for name in sorted(os.listdir(HERE)):
            if name.endswith(".state"):
                print(f"{name[:-6]}|{open(f'{HERE}/{name}').read()}|here")
    ''',
    "srun": '''
        words = [word for word in sys.argv[1:]]
        at = next(place for place, word in enumerate(words) if "python" in word)
        given = dict(zip(words[:at], words[1:at]))
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        out = given["--output"].replace("%A", job.split("_")[0]).replace("%a", job.split("_")[1]).replace("%t", "0")
        os.dup2(os.open(out, os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.execv(words[at], words[at:])
    ''',
}  # fmt: skip
WORK = '''
number, task, script = sys.argv[1:]
job = f"{number}_{task}"
env = dict(os.environ, SLURM_JOB_ID=number, SLURM_ARRAY_JOB_ID=number, SLURM_ARRAY_TASK_ID=task,
           SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0", SLURM_PROCID="0", SLURM_LOCALID="0",
           SLURM_JOB_NODELIST="here")
while True:
    code = subprocess.run(["bash", script], env=env).returncode
    if not os.path.exists(f"{HERE}/{job}.requeue"):
        break
    os.remove(f"{HERE}/{job}.requeue")
open(f"{HERE}/{job}.state", "w").write("COMPLETED" if code == 0 else "FAILED")
'''


SLURM_HERE = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.partition=some")


def stand_in(tmp_path, monkeypatch, **instead):
    """Put a Slurm of this machine into PATH; `instead` has other bodies for its commands."""
    launcher("submitit_local")
    here = tmp_path / "slurm"
    here.mkdir()
    head = f"#!{sys.executable}\nimport os, re, subprocess, sys\nHERE = {str(here)!r}\n"
    for name, body in {**SLURM, **instead}.items():
        (here / name).write_text(head + textwrap.dedent(body))
        (here / name).chmod(0o755)
    (here / "work.py").write_text(head + WORK)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")


WITHOUT_ACCOUNTING = {
    "sacct": 'sys.exit("Slurm accounting storage is disabled")',
    "squeue": '''
        assert {"--all", "--array", "--noheader", "--format=%i"} < set(sys.argv[1:])
        assert "SQUEUE_STATES" not in os.environ
        for name in sorted(os.listdir(HERE)):
            if name.endswith(".state") and open(f"{HERE}/{name}").read() == "RUNNING":
                print(name[:-6])
    ''',
}


@pytest.mark.parametrize("instead", [{}, WITHOUT_ACCOUNTING], ids=["accounting", "no accounting"])
def test_a_task_that_slurm_loses_fails_the_sweep_and_is_named(instead, tmp_path, monkeypatch):
    lost = f"if os.environ['SLURM_ARRAY_TASK_ID'] == '1':\n    os._exit(137)\n{textwrap.dedent(SLURM['srun'])}"
    stand_in(tmp_path, monkeypatch, srun=lost, **instead)
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")
    status, output = run(*SLURM_HERE, "-m", "sweep=s", "method=vanilla", "seed=0,1", "train.epochs=1", cwd=tmp_path)
    named = re.search(r"^error: multirun/s/vanilla-\S*-s1-\w+: failed: it left no result.json$", output, re.MULTILINE)
    assert status == 1 and named and "\nTraceback" not in output and "submitit WARNING" not in output, output
    assert [state for state, *_ in outcome(tmp_path / "multirun/s").values()] == ["completed"]


def test_slurm_as_a_stand_in_speaks_it(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch)
    words = ("-m", "sweep=s", "method=wasi", "seed=0,1", "train.epochs=12")
    process = start(*SLURM_HERE, *words, cwd=tmp_path)
    deadline = time.monotonic() + 300
    job = None
    while job is None and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
        if list(tmp_path.glob("multirun/s/*/checkpoint_before.pt")):
            job = next((p for p in psutil.process_iter() if _trains_below(p, tmp_path)), None)
    job.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    found = outcome(tmp_path / "multirun/s")
    assert [status for status, *_ in found.values()] == ["completed"] * 2
    resumed = [result(tmp_path / "multirun/s" / name)["provenance"].get("resumed_from_step", 0) for name in found]
    assert max(resumed) > 0


def _trains_below(process, folder):
    try:
        return any(f.path.startswith(str(folder)) and f.path.endswith("train.log") for f in process.open_files())
    except (psutil.Error, OSError):
        return False
