"""Numbers of threads that OpenMP would pass over in silence."""

import pytest
from omegaconf import OmegaConf

from wasi.errors import UserError
from wasi.runs.inputs import check_counts


def cfg(num_threads):
    return OmegaConf.create({"device": {"num_threads": num_threads}, "dataset": {"num_workers": None}})


@pytest.mark.parametrize("given", ["abc", "-3", "0", "100000", "1.5", ""])
def test_a_number_of_threads_in_the_environment_that_cannot_be_used_is_refused(given, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    with pytest.raises(UserError, match=rf"^OMP_NUM_THREADS={given}: allowed is a whole number from 1 to \d+ on this"):
        check_counts(cfg(None))
    check_counts(cfg(1))  # which then decides


@pytest.mark.parametrize("given", [None, "1", " 04 ", "4,2"])
def test_one_that_openmp_takes_is_allowed(given, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    check_counts(cfg(None))
