"""What an import may leave behind in a process that workers are forked from, and what it may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.protocol.forks.safety import (
    DISPENSABLE_THREADS,
    HARMLESS,
    RENEWED_THREADS,
    OpenDescriptor,
    Thread,
    Traces,
    Verdict,
    describe_hindrances,
    findings,
    hindrances,
    only_read,
)

BEFORE = Traces(
    ("one",), frozenset({OpenDescriptor(0, "/dev/null", False), OpenDescriptor(3, "socket:[1]", True)}), ("one",)
)


def after(**what: object) -> Traces:
    """The traces from before, with these changes."""
    held = frozenset(what.pop("held", ()))  # type: ignore[call-overload]
    changed = {"threads": BEFORE.threads, "children": BEFORE.children} | what
    return Traces(held=BEFORE.held | held, **changed)  # type: ignore[arg-type]


def test_what_was_there_before_the_import_is_no_hindrance() -> None:
    assert hindrances(BEFORE, BEFORE) == ()
    assert hindrances(BEFORE, Traces()) == (), "what has gone is none either"


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"threads": ("one", "a-poller")}, "started a thread (a-poller)"),
        ({"threads": ("one", "one")}, "started a thread (one)"),
        ({"held": [OpenDescriptor(7, "socket:[2]", True)]}, "opened a socket (descriptor 7)"),
        ({"held": [OpenDescriptor(3, "socket:[2]", True)]}, "opened a socket (descriptor 3)"),
        ({"held": [OpenDescriptor(7, "socket:[2]", True, peer="to h:5")]}, "opened a socket to h:5 (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "pipe:[2]", False)]}, "opened a pipe (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "/srv/shop.db", True)]}, "opened /srv/shop.db for writing (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "/dev/ttyS0", True)]}, "opened a device /dev/ttyS0 (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "/dev/shm/x", True)]}, "opened shared memory /dev/shm/x (descriptor 7)"),
        (
            {"held": [OpenDescriptor(7, "/memfd:x (deleted)", False)]},
            "opened shared memory /memfd:x (deleted) (descriptor 7)",
        ),
        ({"held": [OpenDescriptor(7, "anon_inode:[eventpoll]", True)]}, "made an event loop (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "anon_inode:inotify", True)]}, "watches files (descriptor 7)"),
        (
            {"held": [OpenDescriptor(7, "anon_inode:[timerfd]", True)]},
            "opened something of the kernel's (descriptor 7)",
        ),
        ({"held": [OpenDescriptor(7, "/srv/lock", False, locked=True)]}, "locked /srv/lock (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "/srv/lock", True, locked=True)]}, "locked /srv/lock (descriptor 7)"),
        ({"held": [OpenDescriptor(7, "/dev/ttyS0", False, plain=False)]}, "opened a device /dev/ttyS0 (descriptor 7)"),
        (
            {"held": [OpenDescriptor(7, "/srv/fifo", False, plain=False)]},
            "opened /srv/fifo, which is not an ordinary file (descriptor 7)",
        ),
        ({"shared": ("/srv/map",)}, "made shared memory of /srv/map"),
        ({"shared": ("/dev/zero (deleted)",)}, "made memory that forked processes share (like mmap.mmap(-1, ...))"),
        (
            {"shared": ("/dev/shm/sem.a (deleted)", "/dev/shm/sem.b (deleted)")},
            "made a lock or semaphore between processes (like multiprocessing.Lock)",
        ),
        (
            {"held": [OpenDescriptor(7, "/srv/map", True)], "shared": ("/srv/map",)},
            "opened /srv/map for writing (descriptor 7)",
        ),
        ({"children": ("one", "node")}, "started a process (node)"),
        ({"timer": True}, "started an interval timer"),
        ({"lost": ("locked memory (mlock)",)}, "locked memory (mlock)"),
        ({"looping": True}, "left an event loop running"),
        ({"taken": ("its process id (a.py:7)",)}, "took its process id (a.py:7), which each worker has for itself"),
        ({"asked": ("RRMASTER_WORKER_ID",)}, "asked for RRMASTER_WORKER_ID, which each worker has for itself"),
    ],
)
def test_what_a_fork_would_share_or_lose_is_a_hindrance(left: dict[str, object], words: str) -> None:
    assert hindrances(BEFORE, after(**left)) == (words,)


@pytest.mark.parametrize("thread", [*map(Thread, DISPENSABLE_THREADS)])
def test_a_thread_that_its_library_does_without_after_a_fork_is_for_a_trial_to_judge(thread: Thread) -> None:
    (found,) = findings(BEFORE, after(threads=("one", thread)))
    assert (found.what, found.verdict) == (f"started a thread ({thread.name})", Verdict.DOUBT)
    assert found.why
    assert hindrances(BEFORE, after(threads=("one", thread))) == ()
    assert hindrances(BEFORE, after(threads=("one", thread, "two"))) == ("started a thread (two)",)


@pytest.mark.parametrize("thread", [*map(Thread, RENEWED_THREADS), Thread("a-poller", waits=True)])
def test_a_thread_that_is_there_again_after_a_fork_and_only_waits_is_for_a_trial_to_judge(thread: Thread) -> None:
    (found,) = findings(BEFORE, after(threads=("one", thread), renewed=(thread.name,)))
    assert found.verdict is Verdict.DOUBT
    (found,) = findings(BEFORE, after(threads=("one", thread)))
    assert found.verdict is Verdict.HINDRANCE, "it was not there, this time"


def test_a_thread_that_works_by_itself_would_do_so_in_the_template_too() -> None:
    other = after(threads=("one", "a-poller"), renewed=("a-poller",))
    assert hindrances(BEFORE, other) == ("started a thread (a-poller)",)


def test_what_does_no_harm_is_told_with_the_reason() -> None:
    read, null = OpenDescriptor(8, "/srv/a", False), OpenDescriptor(9, "/dev/null", True, plain=False)
    found = findings(BEFORE, after(held=[read, null]))
    assert [(each.what, each.verdict, each.trace) for each in found] == [
        ("opened /srv/a for reading (descriptor 8)", Verdict.HARMLESS, "descriptor 8"),
        ("opened /dev/null (descriptor 9)", Verdict.HARMLESS, "descriptor 9"),
    ]
    assert all(each.why for each in found)


@given(st.sampled_from([*HARMLESS]) | st.from_regex(r"\A/[a-z]{1,9}/[a-z]{1,9}\Z"))
def test_a_file_that_is_open_for_reading_is_no_hindrance(path: str) -> None:
    read = OpenDescriptor(9, path, False)
    assert hindrances(BEFORE, after(held=[read])) == ()
    assert path in HARMLESS or only_read(BEFORE, after(held=[read])) == {read}, "each worker opens it again"


def test_what_a_worker_opens_again_is_what_the_import_has_opened_to_read_and_not_locked() -> None:
    others = [
        OpenDescriptor(4, "/dev/urandom", False, plain=False),
        OpenDescriptor(5, "/srv/lock", False, locked=True),
        OpenDescriptor(6, "/srv/log", True),
        OpenDescriptor(7, "socket:[2]", True),
    ]
    read = [OpenDescriptor(8, "/srv/a", False), OpenDescriptor(9, "/srv/b (deleted)", False)]
    assert only_read(BEFORE, after(held=[*others, *read])) == {*read}


@pytest.mark.parametrize("device", sorted(HARMLESS))
def test_a_device_without_a_state_is_no_hindrance(device: str) -> None:
    assert hindrances(BEFORE, after(held=[OpenDescriptor(9, device, True)])) == ()


def test_all_hindrances_are_in_one_line() -> None:
    left = after(
        threads=("one", "a\nb"),
        held=[OpenDescriptor(8, "socket:[2]", True), OpenDescriptor(9, "socket:[3]", True)],
        timer=True,
    )
    found = hindrances(BEFORE, left)
    assert len(found) == 4
    for used in (False, True):
        text = describe_hindrances("shop:app", found, used)
        assert "\n" not in text
        assert "shop:app" in text
        assert "opened a socket (descriptor 8), opened a socket (descriptor 9) and started an interval timer" in text
        assert "start-up hook" in text
        assert ("--preload on" in text) == used
    own = hindrances(BEFORE, after(taken=("its process id (a.py:7)",), asked=("RRMASTER_WORKER_ID",)))
    assert describe_hindrances("shop:app", own, False).endswith(", or say --preload on if all may have the same")
    assert "--preload on" not in describe_hindrances("shop:app", (*own, "started a process"), False)
    assert "it started a process;" in describe_hindrances("shop:app", ("started a process",), False)
