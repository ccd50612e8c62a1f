"""SIGTERM and Ctrl-C become a flag inside the context, and what they were outside."""

import os
import signal
import threading

import pytest

from qresnet_jax.train.interrupt import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag_and_its_name(number):
    with StopSignal() as stop:
        assert not stop and str(stop) == ""
        os.kill(os.getpid(), number)
        assert stop and str(stop) == number.name


def test_a_second_interrupt_interrupts():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_does_not_cut_off_the_save():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert str(stop) == "SIGTERM"


def test_handlers_are_put_back_also_after_an_error():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), StopSignal():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_another_thread_it_stays_false_and_raises_nothing():
    found = []

    def work():
        with StopSignal() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_signal_inside_another_context_sets_the_flag_of_both():
    with StopSignal() as outer:
        with StopSignal() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner
        assert str(outer) == "SIGTERM"
        with StopSignal() as later:
            assert not later
        assert str(outer) == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_of_which_nothing_is_saved_ends_at_once(number):
    done = []
    with StopSignal() as stop:
        with stop.at_once():
            os.kill(os.getpid(), number)
            done.append("the rest of the work")
        assert str(stop) == number.name and not done
        os.kill(os.getpid(), signal.SIGTERM)  # no longer


def test_a_second_interrupt_leaves_the_cleaning_up_to_be_interrupted():
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop, stop.at_once():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # does not cut it off
            os.kill(os.getpid(), signal.SIGINT)


def test_errors_leave_work_that_ends_at_once_as_they_are():
    with StopSignal() as stop, pytest.raises(ZeroDivisionError), stop.at_once():
        raise ZeroDivisionError
