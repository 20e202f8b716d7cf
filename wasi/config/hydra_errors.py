"""One-line messages for errors of Hydra's composition; errors that are not recognised are left to Hydra."""

import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any

import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from wasi.config.arguments import target_of
from wasi.config.files import content, flat, of_group, plain
from wasi.config.overrides import option_and_value
from wasi.errors import NOTHING, UserError, first_line, one_line

_SPECIAL = {*" ,=(){}[]#;&|!<>?'\"~^`"}  # characters that an unquoted value of Hydra's grammar may not have as such
_WITHOUT_SECTION = "experiment"  # a group at the top whose files set other sections
_GIVEN = re.compile(r"use \+([^\s=]+)=(.*)")  # the override, as Hydra repeats it
_NO_INDEX = re.compile(r"invalid literal for int\(\) with base 10: '(.*)'")
_MERGED = re.compile(r"Error merging override ([^\s=]+)=(.*)")
_NO_ARGUMENT = re.compile(
    r"Error in call to target '([^']+)'.* unexpected keyword argument '(\w+)'.*full_key: (hydra\.\S+)", re.DOTALL
)
_CHOSEN_TWICE = re.compile(r"Multiple values for ([^\s]+)\. ")
_DELETED = re.compile(  # Hydra's messages about `~OPTION`: the option, and the value that it has
    r"(?:Could not delete [^']*|Config group override deletion .*?key_or_group=|Error merging override (?=~))"
    r"['~]([^'\s]*)(?:' is (.*) and not )?",
    re.DOTALL,
)


def rejected(error: Exception, words: Sequence[str] = (), sweeps: bool = True) -> UserError | None:
    """Return the user's mistake behind `error`, such as an option that does not exist; None if not recognised.

    Args:
        words: the arguments of the command line.
        sweeps: whether the command has sweeps (`-m`).
    """
    if isinstance(error, OverrideParseException):
        return _unparsed(error, words)
    if str(error).startswith("Ambiguous value"):
        option, _, value = str(error).partition("'")[2].partition("'\n")[0].partition("=")
        one = "one value, or with -m several for a sweep" if sweeps else "one value"
        return UserError(option, value, f"{one}, or {_in_quotes(option, value)}")
    if deleted := _DELETED.match(str(error)):
        return _not_deletable(deleted[1], deleted[2], words)
    if str(error).startswith("Unable to configure "):
        return _not_loggable(error, words)
    if isinstance(error, (AssertionError, LookupError, TypeError, AttributeError)):
        return _unchecked(error, words)
    if not isinstance(error, ConfigCompositionException):
        return _not_hydras(str(error), words)
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if twice := _CHOSEN_TWICE.match(str(error)):
        return _added(twice[1], words)
    node = getattr(error.__cause__, "parent_node", None)
    if merged := _MERGED.match(str(error)):
        return _not_mergeable(merged[1], merged[2], error.__cause__)
    given = _GIVEN.search(str(error))
    if not str(error).startswith("Could not override") or given is None or not isinstance(node, DictConfig):
        return None
    option, value = given.groups()
    allowed = _allowed(_first_unknown(option, node), node)
    if allowed.startswith("one of"):
        allowed += _meant(option, node)
    return UserError(option, value, allowed + _in_sweep(option, value, words))


def _unparsed(error: OverrideParseException, words: Sequence[str]) -> UserError:
    """Explain an override that Hydra's grammar cannot parse, such as a path with special characters."""
    override = error.override or ""
    option, equals, value = override.partition("=")
    if equals and option.startswith("-"):
        return UserError(option, value, f"{option.lstrip('-')}={value}, without dashes")
    if not equals:
        before = words[words.index(override) - 1] if override in words[1:] else ""
        option, equals, value = before.partition("=")
        if not equals or before.startswith("-"):
            return UserError(override, NOTHING, f"a value: {override}=VALUE")
        value = f"{value} {override}"
    if value[:1] in "[{'\"" or not (_SPECIAL & {*value} or not value.isascii()):
        return UserError(option.lstrip("+~"), value, f"what Hydra can read ({first_line(error)})")
    return UserError(option.lstrip("+~"), value, _in_quotes(option, value))


def quoted(value: str) -> str:
    """Return a value in quotes for Hydra, where a backslash counts only before a quotation mark.

    >>> print(quoted('a "b", c'))
    "a \\"b\\", c"
    """
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), value)
    return f'"{escaped}"'


def _in_quotes(option: str, value: str) -> str:
    word = shlex.quote(f"{option}={quoted(value)}")
    return f"a value with such characters in quotes for the shell and for Hydra: {word}"


def _not_hydras(error: str, words: Sequence[str]) -> UserError | None:
    """Explain errors that Hydra shows as a traceback.

    Examples are `model=null` and `rank=0.8`, where a group needs a name, and `optimizer.betas.x=1`, where a list needs
    an index.
    """
    no_index = _NO_INDEX.match(error)
    for option, value in map(option_and_value, words):
        inside, _, key = option.rpartition(".")
        if error.startswith("Cannot instantiate config of type") and inside == "hydra.callbacks":
            return UserError(option, value, "a class and its arguments, as _target_ and beside it")
        no_name = error.startswith("Config group override must be") and not isinstance(yaml.safe_load(value), str)
        if no_name and (files := of_group(option)):
            return UserError(option, value, ", ".join(file.stem for file in files))
        if no_index and inside and key == no_index[1]:
            return UserError(option, value, f"a number in the place of {key}, as {inside} is a list; or {inside}=[...]")
    if found := _NO_ARGUMENT.match(error):
        return _no_argument(found[1], found[2], found[3], words)
    return None


def _not_loggable(error: Exception, words: Sequence[str]) -> UserError:
    """Explain what Python's logging cannot be configured with, such as a log file in a missing folder."""
    of_logging = re.compile(r"hydra[./](job|hydra)_logging\b|hydra\.job\.name$")
    found = next((pair for pair in map(option_and_value, words) if of_logging.match(pair[0])), None)
    option, value = found or ("hydra.job_logging", NOTHING)
    reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
    return UserError(option, value, f"what Python's logging can set up ({one_line(reason)})")


def _unchecked(error: Exception, words: Sequence[str]) -> UserError | None:
    """Explain values of Hydra's own options that Hydra does not check, and `hydra.sweeper.params` where it is null."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    updated = [frame.f_locals.get("key") for frame in frames if frame.f_code is OmegaConf.update.__code__]
    for option, value in map(option_and_value, words):
        if option == "hydra.verbose" and not _is_verbosity(_parsed(value)):
            return UserError(option, value, "true, false, a logger's name or a list of such names")
        if option == "hydra.job.env_copy" and (names := _parsed(value)) and str(error).strip("'") in names:
            return UserError(option, value, f"a list of variables that the environment has; {error} is none")
        if option in updated and f"{option}.".startswith("hydra.sweeper.params."):
            reason = "hydra.sweeper.params is null, and OmegaConf puts nothing into that"
            return UserError(option, value, f"OPTION=VALUE,VALUE with -m in its place, as {reason}")
    return None


def _parsed(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _is_verbosity(value: Any) -> bool:
    several = value if isinstance(value, list) else [value]
    return isinstance(value, bool) or all(isinstance(name, str) for name in several)


def _no_argument(path: str, argument: str, section: str, words: Sequence[str]) -> UserError | None:
    """Explain an option that the class of one of Hydra's sections, such as a callback, has no argument for."""
    option = f"{section}.{argument}"
    given = (pair for pair in map(option_and_value, words) if f"{pair[0]}.".startswith(f"{option}."))
    key, value = next(given, (option, NOTHING))
    try:
        target_of(section, OmegaConf.create({"_target_": path, argument: None}))
    except UserError as error:
        return UserError(key, value, error.allowed)
    return None


def _not_deletable(option: str, there: str | None, words: Sequence[str]) -> UserError:
    """Explain `~OPTION` of what is not there or cannot be removed, and `~OPTION=VALUE` where the value is another.

    Args:
        option: as Hydra names it; for a group possibly with `=NAME`.
        there: the value that the option has; None if Hydra does not name it.
    """
    option, _, name = option.partition("=")
    given = (word.removeprefix("~").partition("=") for word in words if word.startswith("~"))
    value = next((value for key, _, value in given if key == option), name)
    if option and (files := of_group(option)):
        allowed = f"{option}=NAME to choose another, of {', '.join(file.stem for file in files)}"
    elif there is None:
        allowed = "an option that can be taken away; --cfg job shows those that there are"
    elif there.startswith("{"):
        allowed = f"{option}.OPTION=VALUE, to set what is in it"
    else:
        allowed = f"{option}=VALUE to set another; what it has is {there}"
    return UserError(f"~{option}", value or NOTHING, allowed)


def _not_mergeable(option: str, value: str, cause: BaseException | None) -> UserError:
    """Explain a list or scalar given for a mapping, and other failed merges by the first line of `cause`."""
    node = getattr(cause, "parent_node", None)
    if value.startswith("{") or not isinstance(node, DictConfig) or node._get_full_key(None) != option:
        reason = (str(cause).splitlines() or [""])[0]
        return UserError(option.lstrip("+"), value, f"what fits there (OmegaConf: {reason})")
    keys = ", ".join(map(str, node))
    entries = f"of {keys}, each as {option}.KEY=VALUE" if keys else f"as '{option}={{KEY: VALUE}}'"
    return UserError(option, value, f"a mapping here, {entries}; {option}=null before this takes the mapping away")


def _added(group: str, words: Sequence[str]) -> UserError | None:
    """Explain `+GROUP=NAME` of a group of which the configuration has chosen a file; None if nobody wrote that."""
    name = next((word.partition("=")[2] for word in words if word.startswith(f"+{group}=")), None)
    if name is None:  # a file of the user's own chooses it twice, which Hydra's words explain
        return None
    return UserError(f"+{group}", name, f"{group}={name}, without +, as a choice is made already")


def _unknown_choice(error: MissingConfigException) -> UserError | None:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    return UserError(group, name, ", ".join(error.options)) if group and error.options else None


def _allowed(option: str, node: DictConfig) -> str:
    """Return what may be given instead of an option that does not exist.

    Args:
        node: the composed section that lacks the option.
    """
    section, *rest = option.split(".")
    has = [str(key) for key in node if not str(key).startswith("_")]
    inside = option.rpartition(".")[0]
    if not inside:
        has.append(_WITHOUT_SECTION)
    if inside == "bench.fit":  # null elsewhere
        return "for experiment=fit only"
    if not has:
        return f"{inside}=VALUE, as {inside} has no options inside"
    listed = f"one of {', '.join(sorted(f'{inside}.{key}' if inside else key for key in has))}"
    owners = [file.stem for file in of_group(section) if _has(file, rest)]
    if not rest or not owners:
        return listed
    here = f", not with {section}={node.get('name')}" if node.get("name") else ""
    return f"for {section}={' or '.join(owners)} only{here}"


def _in_sweep(option: str, value: str, words: Sequence[str]) -> str:
    """Return what to add on an option that does not exist, in a sweep over files of its group of which some have it."""
    section, *rest = option.split(".")
    names = next((word.split("=")[1].split(",") for word in words if re.match(rf"{section}=.*,", word)), [])
    having = [name for name in names if any(_has(file, rest) for file in of_group(section) if file.stem == name)]
    if not having:
        return ""
    if having == names:  # Hydra composes the default of the group first, with options of one value
        return f"; in a sweep over {section} write '{option}=choice({value})'"
    return f"; sweep over {section}={','.join(having)} by itself: another command with the same sweep=NAME adds to it"


def _first_unknown(option: str, node: DictConfig) -> str:
    """Return the option up to the first key that `node` lacks: `trian` of `trian.epochs`."""
    inside = node._get_full_key(None)
    depth = len(inside.split(".")) if inside else 0
    return ".".join(option.split(".")[: depth + 1])


def _meant(option: str, node: DictConfig) -> str:
    """Suggest options with the same name in another section, else the option or group whose name is most similar."""
    known = [name for name in flat(plain(node._get_root())) if not name.startswith(("hydra.", "tune.options."))]
    key = option.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == key]
    sections = {_WITHOUT_SECTION, *(name.partition(".")[0] for name in known)}
    found = sorted(same) or get_close_matches(option, [*known, *sorted(sections)], 1)
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


def _has(file: Path, keys: list[str]) -> bool:
    value: Any = content(file)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
