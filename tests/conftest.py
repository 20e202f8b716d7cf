"""What tests of the configuration share."""

import gc
import pickle
import signal
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[1] / "conf"
SMALL = ("model=vit_micro", "model.weights=random", "dataset=digits", "logger=none")


def pytest_collection_finish(session):
    """Take what all modules have made at their import, which stays, out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def signals_as_at_a_terminal():
    """Give SIGHUP and SIGINT their actions, also in children, which inherit that `nohup` or `&` has them ignored."""
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, hang_up)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def words_of_the_command():
    """The options of the command line that Hydra tells a job of; a test may add some."""
    words: list[str] = []
    told = SimpleNamespace(overrides=SimpleNamespace(task=words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HydraConfig, "get", lambda: told)
        patch.setattr(HydraConfig, "initialized", lambda: False)  # an earlier test may have left a configuration
        yield words


@pytest.fixture
def compose_config():
    """`compose_config("seed=1", config="config", with_hydra=False)`: what train.py would get.

    With `small`, on top of vit_micro from random weights on digits, without a logger.
    """

    def composed(*overrides: str, config="config", with_hydra=False, small=True) -> DictConfig:
        return _composed(config, with_hydra, (*(SMALL if small else ()), *overrides)).copy()

    return composed


@lru_cache(maxsize=128)
def _composed(config: str, with_hydra: bool, overrides: tuple[str, ...]) -> DictConfig:
    import wasi.config.resolvers  # noqa: F401

    setup_globals()
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():
        return compose(config, list(overrides), return_hydra_config=with_hydra)


@contextmanager
def files_read_once():
    """Inside, compositions parse a file of conf/ once per process, which else takes half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", _file_read_once)
        yield


_read = ConfigRepository.load_config
_files: dict[tuple[str, ...], bytes] = {}


def _file_read_once(repository: ConfigRepository, config_path: str):
    """What Hydra makes of a file of conf/: a copy for each composition, which alters it."""
    key = (*(source.path for source in repository.sources), config_path)
    if key not in _files:
        _files[key] = pickle.dumps(_read(repository, config_path))
    return pickle.loads(_files[key])
