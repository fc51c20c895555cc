"""What may become of a worker: State x Event -> State, Actions; and one deadline, whose meaning the state names.

`LAW` is the whole of it.  What the table omits is a breach: the worker said or did what nobody in its state may.
`restarts` decides when a dead one is replaced, `fleet` how many there should be; this module knows one worker and
no other, and neither clocks nor processes.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class State(Enum):
    """Where a worker stands."""

    BOOTING = "booting"  # its process starts and loads the application; no traffic
    PROVING = "proving"  # it said Ready, and is looked at; no traffic
    SERVING = "serving"  # it gets connections
    DRAINING = "draining"  # it gets no more, and finishes what it has
    STOPPING = "stopping"  # it was told to end now (SIGTERM)
    KILLED = "killed"  # it was given no choice (SIGKILL)
    GONE = "gone"  # its process has ended


class Event(Enum):
    """What may happen to a worker."""

    READY = "ready"  # it says that it can take connections
    PASSED = "passed"  # the master has seen enough of it
    FAILED = "failed"  # it says that it could not start, or failed its probe
    RETIRING = "retiring"  # it asks to be replaced
    RETIRE = "retire"  # the master wants it gone, in peace
    BREACH = "breach"  # it broke the rules of the line
    TIMEOUT = "timeout"  # the deadline of its state has passed
    EXIT = "exit"  # its process ended


class Action(Enum):
    """What is to be done about it."""

    ENLIST = "enlist"  # give it connections
    DISMISS = "dismiss"  # give it no more: recall what others have room for, half-close
    REPLACE = "replace"  # count it as leaving: its replacement comes first
    TERMINATE = "terminate"  # SIGTERM
    STACKS = "stacks"  # have it write its stacks into the log, before
    KILL = "kill"  # SIGKILL to its process group
    RECALL = "recall"  # give what it had not taken to the others
    BURY = "bury"  # close what belonged to it, and count


@frozen
class Step:
    """One entry of the table."""

    state: State
    actions: tuple[Action, ...] = ()


_BOOTING, _PROVING, _SERVING = State.BOOTING, State.PROVING, State.SERVING
_DRAINING, _STOPPING, _KILLED, _GONE = State.DRAINING, State.STOPPING, State.KILLED, State.GONE

_TERMINATE = Step(_STOPPING, (Action.TERMINATE,))
_DISMISS = Step(_DRAINING, (Action.DISMISS,))
_KILL = Step(_KILLED, (Action.KILL,))
_HUNG = Step(_KILLED, (Action.STACKS, Action.KILL))
_BURY = Step(_GONE, (Action.RECALL, Action.BURY))
"""Also for one that never served: its letterbox is empty then, and recalling nothing costs nothing."""

LAW: dict[State, dict[Event, Step]] = {
    _BOOTING: {
        Event.READY: Step(_PROVING),
        Event.FAILED: _TERMINATE,
        Event.RETIRING: _TERMINATE,
        Event.RETIRE: _TERMINATE,
        Event.BREACH: _KILL,
        # A hung import is a bug worth seeing: where it hangs stands in the stacks.
        Event.TIMEOUT: _HUNG,
        Event.EXIT: _BURY,
    },
    _PROVING: {
        Event.PASSED: Step(_SERVING, (Action.ENLIST,)),
        Event.FAILED: _TERMINATE,
        Event.RETIRING: _TERMINATE,
        Event.RETIRE: _TERMINATE,
        Event.BREACH: _KILL,
        Event.TIMEOUT: _HUNG,
        Event.EXIT: _BURY,
    },
    _SERVING: {
        Event.PASSED: Step(_SERVING),
        Event.FAILED: _DISMISS,
        Event.RETIRING: Step(_SERVING, (Action.REPLACE,)),
        Event.RETIRE: _DISMISS,
        Event.BREACH: _KILL,
        Event.TIMEOUT: _HUNG,
        Event.EXIT: _BURY,
    },
    _DRAINING: {
        Event.PASSED: Step(_DRAINING),
        Event.FAILED: Step(_DRAINING),
        Event.RETIRING: Step(_DRAINING),
        Event.RETIRE: Step(_DRAINING),
        Event.BREACH: _KILL,
        Event.TIMEOUT: _TERMINATE,
        Event.EXIT: _BURY,
    },
    _STOPPING: {
        Event.READY: Step(_STOPPING),
        Event.PASSED: Step(_STOPPING),
        Event.FAILED: Step(_STOPPING),
        Event.RETIRING: Step(_STOPPING),
        Event.RETIRE: Step(_STOPPING),
        Event.BREACH: _KILL,
        Event.TIMEOUT: _KILL,
        Event.EXIT: _BURY,
    },
    _KILLED: {
        Event.READY: Step(_KILLED),
        Event.PASSED: Step(_KILLED),
        Event.FAILED: Step(_KILLED),
        Event.RETIRING: Step(_KILLED),
        Event.RETIRE: Step(_KILLED),
        Event.BREACH: Step(_KILLED),
        # Uninterruptible sleep outlives a SIGKILL; there is nothing to do but say it again.
        Event.TIMEOUT: _KILL,
        Event.EXIT: _BURY,
    },
    _GONE: {},
}


def step(state: State, event: Event) -> Step:
    """What becomes of a worker in this state.  What the table omits is a breach; for who is gone nothing happens."""
    if state is State.GONE:
        return Step(State.GONE)
    law = LAW[state]
    return law.get(event) or law[Event.BREACH]


@frozen
class Patience:
    """How long each state may last, in seconds.  Proving and serving have no end; their deadline is the silence that a
    worker may keep."""

    ready: float = 30.0
    graceful: float = 30.0
    hang: float = 30.0
    """0: silence is never taken for a hang."""
    term: float = 5.0
    """After SIGTERM.  Enough for `finally` blocks and exit handlers; what takes longer had the graceful timeout."""
    kill: float = 1.0
    """Between one SIGKILL and the next."""

    def deadline(self, state: State, since: float, heard: float) -> float:
        """When a worker's time is up that entered its state at `since` and was last heard at `heard`."""
        match state:
            case State.BOOTING:
                return since + self.ready
            case State.PROVING | State.SERVING:
                return max(since, heard) + self.hang if self.hang else float("inf")
            case State.DRAINING:
                return since + self.graceful
            case State.STOPPING:
                return since + self.term
            case State.KILLED:
                return since + self.kill
            case State.GONE:
                return float("inf")


def as_table() -> str:
    """The law as Markdown, for the documentation."""
    events = list(Event)
    lines = [
        "| | " + " | ".join(event.value for event in events) + " |",
        "|---" * (len(events) + 1) + "|",
    ]
    for state in State:
        if state is not State.GONE:
            cells = [_cell(state, event) for event in events]
            lines.append(f"| {state.value} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(state: State, event: Event) -> str:
    entry = LAW[state].get(event)
    if entry is None:
        return "breach"
    where = "stay" if entry.state is state else entry.state.value
    return f"{where}: {', '.join(a.value for a in entry.actions)}" if entry.actions else where
