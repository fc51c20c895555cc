"""The state machine of a worker: every event in every state, and every path through the table."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.lifecycle import KILL_S, TERM_S, Action, Event, Patience, State, as_table, step
from rrmaster.rules.lifecycle import LAW as TABLE

LIVE = [state for state in State if state is not State.GONE]
ORDER = list(State)
LENGTH = 6

times = st.floats(0, 1e6)


def walk(path: tuple[Event, ...]) -> tuple[list[State], list[Action]]:
    """The states and actions of a worker after these events."""
    state, states, actions = State.BOOTING, [State.BOOTING], []
    for event in path:
        after = step(state, event)
        state = after.state
        states.append(state)
        actions.extend(after.actions)
    return states, actions


def is_repeated(path: tuple[Event, ...], event: Event) -> bool:
    """Whether the silence that would be added to a path is one of its other events by another name."""
    return event is Event.SILENT and (len(path) < 3 or walk(path)[0][-1] is not State.DRAINING)


@pytest.fixture(scope="module")
def paths() -> list[tuple[tuple[Event, ...], list[State], list[Action]]]:
    """All paths of this length, or shorter if they end in GONE, where no event changes anything.

    A silence that is what a timeout is in that state, or nothing, is left out: it would double their number.
    """
    done, open_ = [], [()]
    for _ in range(LENGTH):
        longer = [(*path, event) for path, event in product(open_, Event) if not is_repeated(path, event)]
        done.extend(path for path in longer if path[-1] is Event.EXIT)
        open_ = [path for path in longer if path[-1] is not Event.EXIT]
    return [(path, *walk(path)) for path in done + open_]


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_is_in_the_table_or_a_breach(state, event):
    assert step(state, event) == TABLE[state].get(event, TABLE[state][Event.BREACH])


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("event", [Event.BREACH, Event.TIMEOUT, Event.SILENT, Event.EXIT, Event.RETIRE, Event.FAILED])
def test_what_the_master_or_the_kernel_does_is_never_the_workers_breach(state, event):
    assert event in TABLE[state]


@pytest.mark.parametrize("event", Event)
def test_no_event_changes_a_worker_that_is_gone(event):
    assert step(State.GONE, event).state is State.GONE
    assert step(State.GONE, event).actions == ()


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.BOOTING, Event.PASSED),
        (State.PROVING, Event.READY),
        (State.SERVING, Event.READY),
        (State.DRAINING, Event.READY),
    ],
)
def test_a_worker_that_says_ready_twice_or_passes_unasked_is_killed(state, event):
    assert step(state, event).state is State.KILLED
    assert step(state, event).actions == (Action.KILL,)


def test_the_usual_life():
    states, actions = walk((Event.READY, Event.PASSED, Event.RETIRE, Event.EXIT))
    assert states == [State.BOOTING, State.PROVING, State.SERVING, State.DRAINING, State.GONE]
    assert actions == [Action.ENLIST, Action.DISMISS, Action.RECALL, Action.BURY]


def test_a_worker_that_does_not_drain_is_terminated_then_killed_then_killed_again():
    _, actions = walk((Event.READY, Event.PASSED, Event.RETIRE, *[Event.TIMEOUT] * 4))
    assert actions == [Action.ENLIST, Action.DISMISS, Action.TERMINATE, Action.KILL, Action.KILL, Action.KILL]


@pytest.mark.parametrize(
    "life", [(Event.READY,), (Event.READY, Event.PASSED), (Event.READY, Event.PASSED, Event.RETIRE)]
)
def test_a_worker_that_hangs_writes_its_stacks_before_it_is_killed(life):
    _, actions = walk((*life, Event.SILENT))
    assert actions[-2:] == [Action.STACKS, Action.KILL]
    assert walk((Event.TIMEOUT,))[1] == [Action.STACKS, Action.KILL], "it may hang in its import"


def test_a_worker_that_asks_for_its_replacement_serves_on():
    states, actions = walk((Event.READY, Event.PASSED, Event.RETIRING))
    assert states[-1] is State.SERVING
    assert actions[-1] is Action.REPLACE


def test_every_path_ends_at_its_exit_and_only_there(paths):
    for path, states, _ in paths:
        assert (states[-1] is State.GONE) == (path[-1] is Event.EXIT)


def test_a_worker_that_ends_is_buried_once_after_its_letterbox_was_emptied(paths):
    for path, _, actions in paths:
        gone = path[-1] is Event.EXIT
        assert actions.count(Action.BURY) == actions.count(Action.RECALL) == gone
        if gone:
            assert actions[-2:] == [Action.RECALL, Action.BURY]


def test_no_worker_is_enlisted_twice_or_after_it_was_dismissed(paths):
    for _, _, actions in paths:
        assert actions.count(Action.ENLIST) <= 1
        assert actions.count(Action.DISMISS) <= actions.count(Action.ENLIST)
        if Action.DISMISS in actions:
            assert actions.index(Action.ENLIST) < actions.index(Action.DISMISS)


def test_every_state_is_entered_with_its_action(paths):
    for _, states, actions in paths:
        assert (State.SERVING in states) == (Action.ENLIST in actions)
        assert (State.DRAINING in states) == (Action.DISMISS in actions)
        assert (State.KILLED in states) == (Action.KILL in actions)
        assert (State.STOPPING in states) == (Action.TERMINATE in actions)


def test_no_worker_returns_to_a_state_that_it_left(paths):
    for _, states, _ in paths:
        ranks = [ORDER.index(state) for state in states]
        assert ranks == sorted(ranks)


def test_a_killed_worker_leaves_its_state_only_by_its_exit(paths):
    for path, states, _ in paths:
        for before, event, after in zip(states, path, states[1:], strict=False):
            if before is State.KILLED:
                assert after is (State.GONE if event is Event.EXIT else State.KILLED)


def test_a_breach_is_the_end_in_any_state():
    for state in LIVE:
        assert step(state, Event.BREACH).state is State.KILLED


def test_every_timeout_leads_to_a_later_state_or_repeats_the_kill():
    """No worker can stay for ever by doing nothing."""
    for state in LIVE:
        after = step(state, Event.TIMEOUT)
        assert (ORDER.index(after.state), bool(after.actions)) > (ORDER.index(state), False)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(Event), max_size=50))
def test_long_lives_keep_the_same_rules(path):
    states, actions = walk(tuple(path))
    assert (states[-1] is State.GONE) == (Event.EXIT in path)
    assert actions.count(Action.BURY) == (Event.EXIT in path)
    assert actions.count(Action.ENLIST) <= 1


# --- deadlines

FROM_THE_START = {State.DRAINING: "graceful", State.STOPPING: "term", State.KILLED: "kill"}
"""The deadlines that count from the beginning of the state."""


def patience_of(
    ready: float = 30.0, graceful: float = 30.0, hang: float = 30.0, term: float = TERM_S, kill: float = KILL_S
) -> Patience:
    return Patience(ready, graceful, hang, term, kill)


@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(FROM_THE_START)), times, times, st.floats(0, 1000))
def test_a_worker_that_has_to_go_has_a_deadline_on_the_clock(state, since, heard, seconds):
    patience = patience_of(**{FROM_THE_START[state]: seconds})
    assert patience.deadline(state, since) == since + seconds
    assert patience.silence(state, since, heard, 0) is None, "it is not killed for silence"


@settings(deadline=None, derandomize=True, database=None)
@given(times, times, st.floats(0.1, 1000))
def test_a_worker_that_drains_must_report_for_as_long_as_clients_wait_for_it(since, heard, hang):
    patience = patience_of(hang=hang)
    assert patience.silence(State.DRAINING, since, heard, 1) == (hang, heard), "the drain is no fresh start"
    assert patience.silence(State.DRAINING, since, heard, 0) is None
    assert patience_of(hang=0).silence(State.DRAINING, since, heard, 1) is None


@settings(deadline=None, derandomize=True, database=None)
@given(times, times, st.floats(0, 1000))
def test_the_time_to_become_ready_counts_from_the_start(since, heard, seconds):
    """Messages do not prolong it."""
    assert patience_of(ready=seconds).silence(State.BOOTING, since, heard, 0) == (seconds, since)


@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from([State.PROVING, State.SERVING]), times, times, st.floats(0.1, 1000))
def test_a_worker_that_serves_has_no_deadline_but_that_of_its_next_report(state, since, heard, hang):
    assert patience_of(hang=hang).silence(state, since, heard, 1) == (hang, max(since, heard))
    assert patience_of(hang=0).silence(state, since, heard, 1) == (float("inf"), max(since, heard))


def test_a_worker_that_is_gone_has_no_deadline():
    assert patience_of().deadline(State.GONE, 0) == float("inf")


def test_the_table_for_the_documentation_says_what_the_law_says():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in as_table().splitlines()]
    assert rows[0][1:] == [event.value for event in Event]
    for state, (name, *cells) in zip(LIVE, rows[2:], strict=True):
        assert name == state.value
        for event, cell in zip(Event, cells, strict=True):
            law = TABLE[state].get(event)
            where, _, actions = cell.partition(": ")
            if law is None:
                assert cell == "breach"
            else:
                assert where == ("stay" if law.state is state else law.state.value)
                assert actions == ", ".join(action.value for action in law.actions)
