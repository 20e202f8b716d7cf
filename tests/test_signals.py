"""Signals in the middle of what must not be left half done."""

import os
import signal

import pytest

from wasi.errors import Interrupted
from wasi.signals import interruptible, uninterrupted


def send(*signums):
    for signum in signums:
        os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_waits_for_the_end_of_the_step(signum):
    steps = []
    with pytest.raises(Interrupted) as stop, interruptible(), uninterrupted():
        send(signum)
        steps.append("whole")
    assert stop.value.signum == signum and steps == ["whole"]


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(Interrupted), interruptible(), uninterrupted():
        send(signal.SIGINT, signal.SIGINT)
        raise AssertionError("went on")


def test_a_second_hang_up_does_not_disturb_what_is_saved_after_the_first():
    order = []
    with pytest.raises(Interrupted), interruptible():
        try:
            send(signal.SIGHUP)
        finally:
            send(signal.SIGHUP)
            order.append("saved")
    assert order == ["saved"]


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ((signal.SIGTERM, signal.SIGUSR1), signal.SIGUSR1),  # a scheduler's
        ((signal.SIGUSR1, signal.SIGTERM), signal.SIGUSR1),
        ((signal.SIGHUP, signal.SIGHUP), signal.SIGHUP),  # a closed terminal's
        ((signal.SIGHUP, signal.SIGTERM), signal.SIGHUP),
        ((signal.SIGTERM, signal.SIGHUP), signal.SIGTERM),
    ],
)
def test_signals_that_come_together_are_no_impatience(sent, kept):
    steps = []
    with pytest.raises(Interrupted) as stop, interruptible(), uninterrupted():
        send(*sent)
        steps.append("whole")
    assert stop.value.signum == kept and steps == ["whole"]


def test_who_handled_the_scheduler_s_signal_before_gets_it_when_all_is_saved():
    order = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: order.append("queued again"))
    try:
        with pytest.raises(Interrupted), interruptible():
            try:
                with uninterrupted():
                    send(signal.SIGUSR2)
                    order.append("step")
            finally:
                order.append("saved")
        assert order == ["step", "saved", "queued again"]
        with pytest.raises(Interrupted), interruptible():
            send(signal.SIGTERM)
        assert order[-1] == "queued again" and len(order) == 3
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_a_finalizer_swallows_stops_the_next_step():
    class Loader:
        def __del__(self):
            send(signal.SIGTERM)

    steps = []
    with pytest.raises(Interrupted), interruptible():
        loader = Loader()
        del loader
        steps.append("between")
        with uninterrupted():
            steps.append("whole")
        steps.append("went on")
    assert steps == ["between", "whole"]
    with uninterrupted():
        steps.append("another job")
