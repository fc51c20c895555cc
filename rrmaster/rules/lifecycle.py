"""The state machine of one worker: State x Event -> State, Actions; and one deadline, whose meaning the state names.

`LAW` is all of it.  A pair that the table omits is a breach: the worker said or did what its state forbids.
docs/architecture.md shows the table, generated from `LAW`.  `backoff` decides when an ended worker is replaced, `plan`
how many workers there should be.  This module knows one worker, and neither clocks nor processes.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class State(Enum):
    """The state of a worker.  It never returns to one that it has left."""

    BOOTING = "booting"  # its process starts and loads the application; no traffic
    PROVING = "proving"  # it said Ready, and the master watches it; no traffic
    SERVING = "serving"  # it gets connections
    DRAINING = "draining"  # it gets no more, and finishes what it has
    STOPPING = "stopping"  # it was told to end now (SIGTERM)
    KILLED = "killed"  # it must end (SIGKILL)
    GONE = "gone"  # its process has ended


class Event(Enum):
    """What may happen to a worker.

    READY, FAILED and RETIRING are the worker's own reports (a failed probe counts as FAILED).  The others come from the
    master or the kernel, and are in the table of every state, except PASSED.
    """

    READY = "ready"  # the worker says that it can take connections
    PASSED = "passed"  # the master has watched it for long enough
    FAILED = "failed"  # the worker says that it could not start, or its probe failed
    RETIRING = "retiring"  # the worker asks for its replacement
    RETIRE = "retire"  # the master wants its end, and lets it finish
    BREACH = "breach"  # the worker broke the rules of the line
    TIMEOUT = "timeout"  # the deadline of its state has passed
    SILENT = "silent"  # its loop has not reported for too long
    EXIT = "exit"  # its process ended


class Action(Enum):
    """What the supervisor does on a step.  A `Step` has its actions in their order."""

    ENLIST = "enlist"  # give it connections
    DISMISS = "dismiss"  # give it no more connections: recall what others have room for, half-close
    REPLACE = "replace"  # count it as leaving; it serves until its replacement does
    TERMINATE = "terminate"  # SIGTERM
    STACKS = "stacks"  # have it write its stacks into the log, before the kill
    KILL = "kill"  # SIGKILL to its process group
    RECALL = "recall"  # give the connections that it has not taken to the others
    BURY = "bury"  # close what belonged to it, and count its end


@frozen
class Step:
    """One entry of the table: the next state, and the actions on the way to it."""

    state: State
    actions: tuple[Action, ...] = ()


_BOOTING, _PROVING, _SERVING = State.BOOTING, State.PROVING, State.SERVING
_DRAINING, _STOPPING, _KILLED, _GONE = State.DRAINING, State.STOPPING, State.KILLED, State.GONE

_TERMINATE = Step(_STOPPING, (Action.TERMINATE,))
_DISMISS = Step(_DRAINING, (Action.DISMISS,))
_KILL = Step(_KILLED, (Action.KILL,))
_HUNG = Step(_KILLED, (Action.STACKS, Action.KILL))
_BURY = Step(_GONE, (Action.RECALL, Action.BURY))
"""Also for a worker that never served: its letterbox is empty, and the recall costs nothing."""

LAW: dict[State, dict[Event, Step]] = {
    _BOOTING: {
        Event.READY: Step(_PROVING),
        Event.FAILED: _TERMINATE,
        Event.RETIRING: _TERMINATE,
        Event.RETIRE: _TERMINATE,
        Event.BREACH: _KILL,
        # The stacks show where an import hangs.
        Event.TIMEOUT: _HUNG,
        Event.SILENT: _HUNG,
        Event.EXIT: _BURY,
    },
    _PROVING: {
        Event.PASSED: Step(_SERVING, (Action.ENLIST,)),
        Event.FAILED: _TERMINATE,
        Event.RETIRING: _TERMINATE,
        Event.RETIRE: _TERMINATE,
        Event.BREACH: _KILL,
        Event.TIMEOUT: _HUNG,
        Event.SILENT: _HUNG,
        Event.EXIT: _BURY,
    },
    _SERVING: {
        Event.PASSED: Step(_SERVING),
        Event.FAILED: _DISMISS,
        Event.RETIRING: Step(_SERVING, (Action.REPLACE,)),
        Event.RETIRE: _DISMISS,
        Event.BREACH: _KILL,
        Event.TIMEOUT: _HUNG,
        Event.SILENT: _HUNG,
        Event.EXIT: _BURY,
    },
    _DRAINING: {
        Event.PASSED: Step(_DRAINING),
        Event.FAILED: Step(_DRAINING),
        Event.RETIRING: Step(_DRAINING),
        Event.RETIRE: Step(_DRAINING),
        Event.BREACH: _KILL,
        Event.TIMEOUT: _TERMINATE,
        Event.SILENT: _HUNG,
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
        Event.SILENT: Step(_STOPPING),
        Event.EXIT: _BURY,
    },
    _KILLED: {
        Event.READY: Step(_KILLED),
        Event.PASSED: Step(_KILLED),
        Event.FAILED: Step(_KILLED),
        Event.RETIRING: Step(_KILLED),
        Event.RETIRE: Step(_KILLED),
        Event.BREACH: Step(_KILLED),
        # A process in uninterruptible sleep outlives a SIGKILL.  The master can only send it again.
        Event.TIMEOUT: _KILL,
        Event.SILENT: Step(_KILLED),
        Event.EXIT: _BURY,
    },
    _GONE: {},
}


def step(state: State, event: Event) -> Step:
    """The next step of a worker in this state.  A pair that the table omits is a breach.

    An event may arrive late, after the worker's end: then nothing happens.
    """
    if state is State.GONE:
        return Step(State.GONE)
    law = LAW[state]
    return law.get(event) or law[Event.BREACH]


TERM_S = 5.0
"""Seconds after SIGTERM.  Enough for `finally` blocks and exit handlers; longer work had the graceful timeout."""

KILL_S = 1.0
"""Seconds between one SIGKILL and the next."""


@frozen
class Patience:
    """The deadlines of the states, in seconds.  The first three are options, whose defaults stand in `Settings`.

    Proving and serving may last for ever; their deadline is that of the next report.  A draining worker has both: its
    clients must not wait to the end of the graceful timeout for a loop that hangs.
    """

    ready: float
    """From the start of the process until it says Ready."""
    graceful: float
    """For the connections of a draining worker."""
    hang: float
    """Between two reports; 0: a worker without reports never counts as hung."""
    term: float = TERM_S
    kill: float = KILL_S

    def silence(self, state: State, since: float, heard: float, connections: int) -> tuple[float, float] | None:
        """For how long a worker may be silent in this state, and since when; None: its only deadline is on the clock.

        A silent worker is killed as sick, so what it waited for a processor must not count (`fair_time`).  It entered
        its state at `since` and reported last at `heard`.  One that has finished its connections may end as slowly as
        the graceful timeout allows.
        """
        match state:
            case State.BOOTING:
                return self.ready, since
            case State.PROVING | State.SERVING:
                return self.hang or float("inf"), max(since, heard)
            case State.DRAINING if self.hang and connections:
                return self.hang, heard
        return None

    def deadline(self, state: State, since: float) -> float:
        """The deadline of a worker that entered a state at `since` in which it has to go; others have none.

        The operator was promised that time, and systemd waits for no longer: it is on the clock.
        """
        match state:
            case State.DRAINING:
                return since + self.graceful
            case State.STOPPING:
                return since + self.term
            case State.KILLED:
                return since + self.kill
        return float("inf")


SILENCES = {
    State.BOOTING: "not ready in time",
    State.PROVING: "silent for too long",
    State.SERVING: "its loop has not reported for too long",
    State.DRAINING: "its loop has not reported for too long, and clients wait for it",
}
"""What is said of a worker that has been silent for too long."""

TIMEOUTS = {
    State.DRAINING: "not done in time",
    State.STOPPING: "still there after SIGTERM",
    State.KILLED: "still there after SIGKILL",
}
"""What is said of one whose deadline on the clock has passed."""


def as_table() -> str:
    """`LAW` as a Markdown table, for docs/architecture.md."""
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
