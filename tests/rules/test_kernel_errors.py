"""The cost of the kernel's errors: the unknown is never fatal, and each errno has one cost for each call."""

import errno

import pytest

from rrmaster.rules.kernel_errors import (
    ACCEPT,
    CAPACITY_ERRORS,
    CLOSE,
    CONNECTION_ERRORS,
    HAND_OVER,
    LAWS,
    OWN_STATE,
    READ,
    Cost,
    name_of,
)

every_call = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


@every_call
def test_an_unknown_error_never_ends_the_master(law):
    assert law.cost(9999) is not Cost.MASTER
    assert law.cost(None) is not Cost.MASTER


@every_call
def test_only_an_error_of_its_own_state_ends_the_master(law):
    fatal = {number for number in errno.errorcode if law.cost(number) is Cost.MASTER}
    assert fatal <= OWN_STATE


def test_an_error_of_accept_belongs_to_the_connection_or_the_machine_and_never_to_both():
    assert not CONNECTION_ERRORS & CAPACITY_ERRORS
    assert not (CONNECTION_ERRORS | CAPACITY_ERRORS) & OWN_STATE
    assert {ACCEPT.cost(number) for number in CAPACITY_ERRORS | {errno.EINVAL, errno.EIO}} == {Cost.PAUSE}


def test_a_full_line_costs_no_worker_and_a_broken_one_does():
    assert {HAND_OVER.cost(number) for number in (errno.EAGAIN, errno.ETOOMANYREFS)} == {Cost.PAUSE}
    assert {HAND_OVER.cost(number) for number in (errno.EPERM, errno.EINVAL, errno.ECONNRESET)} == {Cost.WORKER}
    assert READ.cost(errno.ECONNRESET) is Cost.WORKER


def test_an_interrupted_close_has_closed():
    assert {CLOSE.cost(number) for number in (errno.EINTR, errno.EIO)} == {Cost.NOTHING}
    assert CLOSE.cost(errno.EBADF) is Cost.MASTER


def test_an_error_has_a_name_for_the_log():
    assert (name_of(errno.EMFILE), name_of(9999), name_of(None)) == ("EMFILE", "9999", "None")
