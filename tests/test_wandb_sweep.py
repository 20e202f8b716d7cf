"""sweep.yaml: what `wandb agent` makes of it is a command line of train.py."""

from pathlib import Path

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from wasi.config.known_options import check_config
from wasi.config.objectives import direction

SWEEP = yaml.safe_load((Path(__file__).resolve().parents[1] / "sweep.yaml").read_text())


def chosen(parameter):
    """A value that the server may choose."""
    return parameter["value"] if "value" in parameter else (parameter.get("values") or [parameter["max"]])[-1]


def agent_words():
    """As wandb/wandb_agent.py fills in the command for one run."""
    args = {name: {"value": chosen(parameter)} for name, parameter in SWEEP["parameters"].items()}
    filled = create_sweep_command_args({"args": args})
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    words = []
    for chunk in create_sweep_command(list(SWEEP["command"])):
        words += filled[chunk[2:-1]] if chunk.startswith("${") and chunk.endswith("}") else [chunk]
    return words


def test_an_agents_command_is_a_valid_run(compose_config):
    words = agent_words()
    assert words[:3] == ["/usr/bin/env", "python", "train.py"]
    cfg = compose_config(*words[3:], small=False)
    check_config(cfg)
    assert (cfg.method.name, cfg.optimizer.lr, cfg.train.epochs) == ("wasi", 0.01, 5)


def test_the_server_is_told_a_metric_that_runs_log_and_no_choice_sees_the_test_split():
    assert SWEEP["metric"] == {"name": "val/acc", "goal": direction("val/acc")}
    assert SWEEP["program"] == "train.py"
