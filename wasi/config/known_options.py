"""Checks of a whole configuration: options that do not exist or are missing, and all rules of `validate`.

`validate` checks the options that a configuration has. But Hydra lets `+train.epoch=5` add an option that nothing
reads, `~train.epochs` and `train=null` remove what a run needs, and `method.activations.epsilon=5` bypass the rule of
`rank.activation_epsilon`. These cases are found here.
"""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigLoadError, ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from wasi.config.arguments import target_of
from wasi.config.declared import appearance, options_of
from wasi.config.files import CONF, content, flat, of_group, plain
from wasi.config.hydra_errors import quoted
from wasi.config.overrides import given_value, option_and_value
from wasi.config.validate import OPTIONS, bound, integer_from, validate
from wasi.errors import NOTHING, UserError

_GROUPS = ("model", "dataset", "augment", "method", "rank", "device", "optimizer", "scheduler", "logger")
# Groups whose options are the arguments of a class (`_target_`), against which `target_of` checks them.
_INSTANTIATED = ("optimizer", "scheduler")
_WHOLE = ("experiment", "recipe")  # groups whose files set options of other sections
_BENCH = "bench"
_PLUGINS = ("launcher", "sweeper")  # sections of `hydra` whose options are the arguments of a class
_LOGGING = {  # keys that Python's `logging.config.dictConfig` knows
    *("version", "formatters", "filters", "handlers", "loggers", "root", "incremental", "disable_existing_loggers"),
}
_HYDRAS = ("_target_", "_recursive_", "_convert_")  # keys for Hydra itself, in any section that names a class
_NAMES = ("dataset.root", "model.weights", "rank.perplexity_table", "logger.entity")  # any text may be one of these
_UNQUOTED = re.compile(r"[\w.+-]+")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def check_config(cfg: DictConfig, swept: Collection[str] = ()) -> None:
    """Raise `UserError` for the first option that is unknown, missing or not allowed.

    The rules of `rank` also apply to the method's own options that take their values from it.

    Args:
        swept: keys whose values differ from job to job; rules that concern them are left to the jobs.
    """
    check_sections(cfg)
    try:
        validate(cfg, swept)
    except UserError as error:
        raise _with_quotes(error, cfg) from None
    if not {"method", "recipe", "experiment"} & set(swept):
        check_method(cfg)
        if (as_read := _with_rank_as_read(cfg)) is not None:
            validate(as_read, swept)


def _with_quotes(error: UserError, cfg: DictConfig) -> UserError:
    """Return the error, for a name that Hydra has read as a number with how to write it on the command line."""
    hydra_cfg = _hydra_of(cfg)
    words = hydra_cfg.overrides.task if hydra_cfg else []
    given = given_value(error.option, words) or ""
    is_name = isinstance(OmegaConf.select(cfg, error.option), str)
    if is_name or error.option not in _NAMES or not _UNQUOTED.fullmatch(given):
        return error
    word = shlex.quote(f"{error.option}={quoted(given)}")
    return UserError(error.option, given, f"{error.allowed}; if {given} is its name, quote it: {word}")


def check_sections(cfg: DictConfig) -> None:
    """Raise `UserError` for a section or option that is missing, and for an option that nothing reads."""
    folders, main = _folders(cfg), content(CONF / "config.yaml")
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()} - {"hydra"}
    _refuse_unknown("", cfg, set(main) - {"defaults"} | groups)
    _refuse_what_is_not_read(cfg)
    own = {key: value for key, value in main.items() if isinstance(value, dict) and key != "hydra"}
    _refuse_missing("", cfg, set(main) - {"defaults", "hydra", *own})
    for section in (*_GROUPS, *own):
        if not isinstance(cfg.get(section), DictConfig):
            raise UserError(section, "null", _choices(section, folders) or f"a section, by {section}.OPTION=VALUE")
    for section, needed in own.items():
        _refuse_unknown(section, cfg[section], needed)
        _refuse_missing(section, cfg[section], needed)
    for section in _GROUPS:
        if section not in _INSTANTIATED:
            _refuse_unknown_inside(section, cfg[section], _files(section, folders))
        check_needed(section, cfg)
    if isinstance(cfg.get(_BENCH), DictConfig):  # under train.py an experiment may set some of its options
        _refuse_unknown_inside(_BENCH, cfg[_BENCH], _files(_BENCH, folders))


def check_hydra(hydra_cfg: DictConfig) -> None:
    """Raise `UserError` for a key of `hydra` that nothing reads, neither Hydra nor a plugin, or an unfit value."""
    _refuse_unknown_to_class("hydra", hydra_cfg, HydraConf, beside={"env"})
    if hydra_cfg.job.chdir:
        allowed = "false or null, as relative paths are those of the working folder"
        raise UserError("hydra.job.chdir", hydra_cfg.job.chdir, allowed)
    for section in ("hydra_logging", "job_logging"):
        _refuse_unknown(f"hydra.{section}", hydra_cfg[section], _LOGGING)
    callbacks = {f"callbacks.{name}": node for name, node in hydra_cfg.callbacks.items()}
    for section, node in {**{name: hydra_cfg[name] for name in _PLUGINS}, **callbacks}.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise UserError(f"hydra.{section}", node, "a class and its arguments, as _target_ and beside it")
    for section in _PLUGINS:
        target_of(f"hydra.{section}", hydra_cfg[section])
    size, params = hydra_cfg.sweeper.get("max_batch_size"), hydra_cfg.sweeper.get("params")
    if size is not None and not integer_from(1)(size):
        raise UserError("hydra.sweeper.max_batch_size", size, "a whole number from 1 up, or null")
    if params is not None and not isinstance(params, DictConfig):
        raise UserError("hydra.sweeper.params", params, "a mapping from options to values, or null")
    launcher = hydra_cfg.runtime.choices.get("hydra/launcher")
    if options := _of_launcher(str(launcher)):  # its class takes `**options`, so `target_of` cannot check them
        _refuse_unknown("hydra.launcher", hydra_cfg.launcher, options)


def _refuse_unknown_to_class(section: str, node: DictConfig, kind: type, beside: Collection[str] = ()) -> None:
    """Refuse keys that the dataclass `kind` lacks, in a section and in its nested sections that are dataclasses too."""
    known = {field.name: field.type for field in fields(kind) if field.name != "defaults"}
    _refuse_unknown(section, node, {*known, *beside})
    for name, inside in known.items():
        if isinstance(inside, type) and is_dataclass(inside):
            _refuse_unknown_to_class(f"{section}.{name}", node[name], inside)


def _of_launcher(choice: str) -> set[str]:
    """Return the options that an installed launcher plugin has registered with Hydra; empty without such a plugin."""
    try:
        described = ConfigStore.instance().load(f"hydra/launcher/{choice}.yaml").node
    except ConfigLoadError:
        return set()
    shipped = CONF / "hydra" / "launcher" / f"{choice}.yaml"
    return {*map(str, described), *(content(shipped) if shipped.is_file() else ())}


def check_needed(section: str, cfg: DictConfig) -> None:
    """Raise `UserError` for an option that every file of a group has and the configuration lacks."""
    whole = [set(file) for file in _files(section, _folders(cfg)) if "defaults" not in file]
    _refuse_missing(section, cfg[section], set.intersection(*whole) if whole else ())


def check_method(cfg: DictConfig) -> None:
    """Check the method's name, and its options that take their value from another option by interpolation.

    Each of the latter must satisfy the rule of the option that the method's YAML file interpolates.

    Raises:
        UserError: there is no such method, its class cannot be made of the options or declares what reports cannot
            draw, or a value is not allowed.
    """
    files = _method_files(cfg)
    method, name = cfg.method, cfg.method.get("name")
    if name not in files:
        raise UserError("method.name", name, f"{', '.join(sorted(filter(None, files)))}, by method=NAME")
    paths = [file for folder in _folders(cfg) for file in of_group("method", folder)]
    called = [file.stem for file in paths if content(file).get("name") == name]
    if name not in called:
        raise UserError("method.name", name, f"{called[0]}, the name of its file conf/method/{called[0]}.yaml")
    appearance(name)  # refuses what no report could draw, before anything trains
    # A shipped class fits its own file's options; to import it would take seconds.
    if method._target_ != options_of(name).get("_target_") or not set(method) <= set(files[name]):
        check_class(method)
    given_values = flat(plain(method))
    for path, reference in _references(files[name]):
        for section in _sections(path):
            if section in given_values:  # a value in place of a section
                given, needs = OmegaConf.select(method, section), f"method={name} reads method.{path}"
                raise UserError(f"method.{section}", given, f"options here, as {needs}")
        value = OmegaConf.select(method, path)
        test, allowed = OPTIONS.get(reference, (None, ""))
        if test is not None and not test(value):
            raise UserError(f"method.{path}", value, allowed + bound(value, test))


def check_class(method: DictConfig) -> None:
    """Import the method's class, and check that it can be made of the method's options.

    Raises:
        UserError: there is no such class, or it has not these arguments.
    """
    parameters = signature(target_of("method", method)).parameters.items()
    needed = [key for key, found in parameters if found.default is Parameter.empty and key not in method]
    if needed:
        allowed = f"a class whose arguments are options of method={method.name}, which has no {', '.join(needed)}"
        raise UserError("method._target_", method._target_, allowed)


def _sections(path: str) -> list[str]:
    """Return the sections that an option is in.

    >>> _sections("activations.perplexity.table")
    ['activations', 'activations.perplexity']
    """
    keys = path.split(".")
    return [".".join(keys[:depth]) for depth in range(1, len(keys))]


def _with_rank_as_read(cfg: DictConfig) -> DictConfig | None:
    """Return the configuration with the values of `rank` that the method's own options have; None if they agree.

    `validate` of the result applies the rules about combinations of options to `method.activations.token_epsilon` as
    well.
    """
    changed = {}
    for path, reference in _references(_method_files(cfg)[cfg.method.name]):
        value = OmegaConf.select(cfg.method, path)
        if reference.startswith("rank.") and value != OmegaConf.select(cfg, reference):
            changed[reference] = value
    if not changed:
        return None
    as_read = cfg.copy()
    for reference, value in changed.items():
        OmegaConf.update(as_read, reference, value)
    return as_read


def _references(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options of a file that interpolate another option, as (dotted key, option that is interpolated)."""
    for key, value in flat(node).items():
        if found := _REFERENCE.fullmatch(str(value)):
            yield key, found[1]


def _refuse_unknown(section: str, node: DictConfig, known: Collection[str]) -> None:
    for key in node:
        if key not in known and not (section and key in _HYDRAS):
            option = f"{section}.{key!s}" if section else str(key)
            inside = f"{section}." if section else ""
            listed = ", ".join(f"{inside}{name}" for name in sorted(known) if not name.startswith("_"))
            raise UserError(option, plain(node)[str(key)], f"one of {listed}")


def _refuse_unknown_inside(section: str, node: DictConfig, files: list[dict[str, Any]]) -> None:
    """Refuse unknown keys in a section and in sections that the files have inside it, such as `method.activations`."""
    _refuse_unknown(section, node, set().union(*files) - {"defaults"})
    for key in map(str, node):
        inside = [file[key] for file in files if isinstance(file.get(key), dict)]
        if inside and isinstance(node[key], DictConfig):
            _refuse_unknown_inside(f"{section}.{key}", node[key], inside)


def _refuse_what_is_not_read(cfg: DictConfig) -> None:
    """Refuse options that this command does not read: any inside `experiment` or `recipe`, and `bench` in train.py."""
    for group in _WHOLE:
        if isinstance(cfg.get(group), DictConfig):
            key, value = next(iter(plain(cfg[group]).items()))
            raise UserError(f"{group}.{key}", value, f"{group}=NAME, as {group} has no options inside")
    if HydraConfig.initialized() and HydraConfig.get().job.config_name != _BENCH:
        for option, value in map(option_and_value, HydraConfig.get().overrides.task):
            if option.startswith(f"{_BENCH}."):
                raise UserError(option, value, "for bench_device.py only")


def _refuse_missing(section: str, node: DictConfig, needed: Collection[str]) -> None:
    for key in needed:
        if key not in node.keys():  # noqa: SIM118 (`in node` hides a missing value)
            option = f"{section}.{key}" if section else key
            raise UserError(f"~{option}", NOTHING, f"only what a run does without; {option} takes a value")


def _choices(section: str, folders: list[Path]) -> str:
    return ", ".join(sorted({file.stem for folder in folders for file in of_group(section, folder)}))


def _files(section: str, folders: list[Path]) -> list[dict[str, Any]]:
    return [content(file) for folder in folders for file in of_group(section, folder)]


def _method_files(cfg: DictConfig) -> dict[Any, dict[str, Any]]:
    """Return the content of each method's file, by the name in it."""
    return {file.get("name"): file for file in _files("method", _folders(cfg))}


def _folders(cfg: DictConfig) -> list[Path]:
    """Return the project's configuration folder, followed by those of `--config-dir`."""
    hydra_cfg = _hydra_of(cfg)
    given = hydra_cfg.runtime.config_sources if hydra_cfg else []
    others = [Path(source.path) for source in given if source.schema == "file"]
    return list(dict.fromkeys([CONF, *(path for path in others if path.is_dir())]))


def _hydra_of(cfg: DictConfig) -> Any:
    """Return Hydra's section, which `cfg` has before a sweep's first job, and Hydra during a job; else None."""
    return cfg.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
