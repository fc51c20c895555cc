"""What may become of a worker: every event in every state, and every path through the table."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.lifecycle import LAW as TABLE
from rrmaster.rules.lifecycle import Action, Event, Patience, State, as_table, step

LIVE = [state for state in State if state is not State.GONE]
ORDER = list(State)
LENGTH = 6

times = st.floats(0, 1e6)


def walk(path: tuple[Event, ...]) -> tuple[list[State], list[Action]]:
    """The states and actions of a worker to whom all this happens."""
    state, states, actions = State.BOOTING, [State.BOOTING], []
    for event in path:
        after = step(state, event)
        state = after.state
        states.append(state)
        actions.extend(after.actions)
    return states, actions


@pytest.fixture(scope="module")
def paths() -> list[tuple[tuple[Event, ...], list[State], list[Action]]]:
    """All of them.  What happens to who is gone changes nothing, so those go on no longer."""
    done, open_ = [], [()]
    for _ in range(LENGTH):
        longer = [(*path, event) for path, event in product(open_, Event)]
        done.extend(path for path in longer if path[-1] is Event.EXIT)
        open_ = [path for path in longer if path[-1] is not Event.EXIT]
    return [(path, *walk(path)) for path in done + open_]


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("event", Event)
def test_every_event_in_every_state_is_in_the_table_or_a_breach(state, event):
    assert step(state, event) == TABLE[state].get(event, TABLE[state][Event.BREACH])


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("event", [Event.BREACH, Event.TIMEOUT, Event.EXIT, Event.RETIRE, Event.FAILED])
def test_what_the_master_or_the_kernel_does_is_never_the_workers_breach(state, event):
    assert event in TABLE[state]


@pytest.mark.parametrize("event", Event)
def test_nothing_happens_to_who_is_gone(event):
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
def test_who_says_ready_twice_or_passes_unasked_is_killed(state, event):
    assert step(state, event).state is State.KILLED
    assert step(state, event).actions == (Action.KILL,)


def test_the_usual_life():
    states, actions = walk((Event.READY, Event.PASSED, Event.RETIRE, Event.EXIT))
    assert states == [State.BOOTING, State.PROVING, State.SERVING, State.DRAINING, State.GONE]
    assert actions == [Action.ENLIST, Action.DISMISS, Action.RECALL, Action.BURY]


def test_who_does_not_drain_is_told_to_end_then_killed_then_killed_again():
    _, actions = walk((Event.READY, Event.PASSED, Event.RETIRE, *[Event.TIMEOUT] * 4))
    assert actions == [Action.ENLIST, Action.DISMISS, Action.TERMINATE, Action.KILL, Action.KILL, Action.KILL]


@pytest.mark.parametrize("life", [(), (Event.READY,), (Event.READY, Event.PASSED)])
def test_who_hangs_shows_where_before_it_is_killed(life):
    _, actions = walk((*life, Event.TIMEOUT))
    assert actions[-2:] == [Action.STACKS, Action.KILL]


def test_who_asks_to_be_replaced_serves_on():
    states, actions = walk((Event.READY, Event.PASSED, Event.RETIRING))
    assert states[-1] is State.SERVING
    assert actions[-1] is Action.REPLACE


def test_every_path_ends_at_its_exit_and_only_there(paths):
    for path, states, _ in paths:
        assert (states[-1] is State.GONE) == (path[-1] is Event.EXIT)


def test_who_ends_is_buried_once_after_its_letterbox_was_emptied(paths):
    for path, _, actions in paths:
        gone = path[-1] is Event.EXIT
        assert actions.count(Action.BURY) == actions.count(Action.RECALL) == gone
        if gone:
            assert actions[-2:] == [Action.RECALL, Action.BURY]


def test_nobody_is_enlisted_twice_or_after_being_dismissed(paths):
    for _, _, actions in paths:
        assert actions.count(Action.ENLIST) <= 1
        assert actions.count(Action.DISMISS) <= actions.count(Action.ENLIST)
        if Action.DISMISS in actions:
            assert actions.index(Action.ENLIST) < actions.index(Action.DISMISS)


def test_who_serves_was_enlisted_and_who_drains_dismissed(paths):
    for _, states, actions in paths:
        assert (State.SERVING in states) == (Action.ENLIST in actions)
        assert (State.DRAINING in states) == (Action.DISMISS in actions)
        assert (State.KILLED in states) == (Action.KILL in actions)
        assert (State.STOPPING in states) == (Action.TERMINATE in actions)


def test_nobody_comes_back_to_a_state_that_was_left(paths):
    for _, states, _ in paths:
        ranks = [ORDER.index(state) for state in states]
        assert ranks == sorted(ranks)


def test_who_is_killed_leaves_by_its_exit_alone(paths):
    for path, states, _ in paths:
        for before, event, after in zip(states, path, states[1:], strict=False):
            if before is State.KILLED:
                assert after is (State.GONE if event is Event.EXIT else State.KILLED)


def test_a_breach_is_the_end_in_any_state():
    for state in LIVE:
        assert step(state, Event.BREACH).state is State.KILLED


def test_no_deadline_is_the_last_word_but_that_of_the_killed():
    """Every timeout leads on, so nobody can stay for ever by doing nothing."""
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

FIXED = {State.BOOTING: "ready", State.DRAINING: "graceful", State.STOPPING: "term", State.KILLED: "kill"}


@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(FIXED)), times, times, st.floats(0, 1000))
def test_the_deadline_of_a_state_counts_from_its_beginning(state, since, heard, seconds):
    """Talking does not prolong it."""
    patience = Patience(**{FIXED[state]: seconds})
    assert patience.deadline(state, since, heard) == since + seconds


@settings(deadline=None, derandomize=True, database=None)
@given(st.sampled_from([State.PROVING, State.SERVING]), times, times, st.floats(0.1, 1000))
def test_who_serves_has_no_deadline_but_silence(state, since, heard, hang):
    deadline = Patience(hang=hang).deadline(state, since, heard)
    assert deadline == max(since, heard) + hang
    assert Patience(hang=0).deadline(state, since, heard) == float("inf")


def test_who_is_gone_has_no_deadline():
    assert Patience().deadline(State.GONE, 0, 0) == float("inf")


def test_the_defaults_of_patience_are_those_of_the_settings():
    from rrmaster.config.settings import Settings

    patience, chosen = Patience(), Settings("shop.main:app")
    assert patience.ready == chosen.ready_timeout
    assert patience.graceful == chosen.graceful_timeout
    assert patience.hang == chosen.hang_timeout


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
