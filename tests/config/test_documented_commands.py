"""The commands of train.py and bench_device.py that README.md, docs/ and the experiments' headers print are valid.

FILE, FOLDER and RUN are taken as they stand, as nothing is read. Options of Hydra itself (`hydra/launcher=`) are left
out, as they are those of plugins that may not be installed.
"""

import re
import shlex
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from wasi.config.known_options import check_config

ROOT = Path(__file__).resolve().parents[2]
_COMMAND = re.compile(r"^(?:\$ |srun |torchrun \S+ )?(?:python )?(train|bench_device)\.py\b(.*)$")
_STANDS_FOR = {"model.name=NAME": "model.name=resnet18", "seed=$SLURM_ARRAY_TASK_ID": "seed=233"}
_NOT_HERE = {
    "experiment=NAME",
    "method=dora",
}  # any experiment; the method that docs/add_a_method.md has its reader write


def _commands(text: str) -> list[str]:
    """Those of code blocks, whole over lines that end in a backslash, and those between single backticks."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)
    return [line for line in lines if _COMMAND.match(line) and "=" in line and not _NOT_HERE & set(line.split())]


def _header_commands(text: str) -> list[str]:
    """Those of a file's comments, whole over lines that end in a backslash."""
    header = "\n".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    return [line for line in re.sub(r"\\\n\s*", " ", header).splitlines() if _COMMAND.match(line)]


COMMANDS = sorted(
    {
        command
        for paths, commands in (
            ([ROOT / "README.md", *(ROOT / "docs").glob("*.md")], _commands),
            ((ROOT / "conf" / "experiment").glob("*.yaml"), _header_commands),
        )
        for path in paths
        for command in commands(path.read_text(encoding="utf-8"))
    }
)


def _words(command: str) -> tuple[str, list[str]]:
    """The main configuration, and the overrides that are not Hydra's own."""
    program, rest = _COMMAND.match(command).groups()
    given = [word for word in shlex.split(rest, comments=True) if "=" in word and not word.startswith("hydra")]
    return {"train": "config", "bench_device": "bench"}[program], [_STANDS_FOR.get(word, word) for word in given]


def _ends(words: list[str]) -> list[list[str]]:
    """The first and the last job of the sweep that the overrides ask for; one of a single run."""
    swept = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_discrete_sweep()
        else [one.input_line]
        for one in swept
        if not one.is_interval_sweep()
    ]
    jobs = [list(job) for job in product(*values)]
    return [jobs[0], *jobs[1:][-1:]]


def test_there_are_commands_in_documents_and_headers():
    assert len(COMMANDS) > 80


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_composes_and_is_valid(command, compose_config):
    config, words = _words(command)
    for job in _ends(words):
        check_config(compose_config(*job, config=config, small=False))
