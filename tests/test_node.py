"""What the tests of Node's cluster verify is true here too, or differs on purpose: row by row, for Node 25.8.1.

The rows are Node's files ``test/parallel/test-cluster-*.js`` without the first two words, and other tests of Node's by
their whole names.  A test that is renamed or removed here must be renamed or replaced in this table.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

HELD = {
    "protocol/test_wire": {
        "test_a_message_that_refers_to_itself_is_refused": "advanced-serialization",
    },
    "dispatch/test_acceptor": {
        "test_a_connections_own_trouble_costs_the_next_one_nothing": "accept-fail",
    },
    "api/test_worker": {
        "test_to_disconnect_is_safe_in_every_state_and_returns_at_the_end": (
            "worker-destroy worker-isconnected worker-isdead disconnect-before-exit disconnect-idle-worker "
            "disconnect-unshared-tcp disconnect-exitedAfterDisconnect-race"
        ),
    },
    "dispatch/test_listeners": {
        "test_a_backlog_is_as_long_as_was_asked": "net-listen-backlog",
        "test_a_unix_sockets_mode_is_exact_whatever_the_umask": "listen-pipe-readable-writable",
        "test_a_port_for_root_is_refused_to_others_for_real": "bind-privileged-port",
    },
    "dispatch/test_dynamic_listeners": {
        "test_the_ipv6_wildcard_leaves_the_port_of_ipv4_free": ("net-listen-ipv6only-none net-listen-ipv6only-rr"),
        "test_the_same_index_is_the_same_free_port_for_all_workers": "child-index-net",
        "test_the_same_address_twice_in_one_worker_is_in_use_until_it_is_left": "test-net-listen-twice",
    },
    "worker/programs/test_ports": {
        "test_connections_of_a_closed_listener_are_left_to_the_master_and_then_closed": "worker-handle-close",
        "test_a_listener_of_an_abandoned_request_is_closed_again": "test-net-server-close-before-ipc-response",
    },
    "supervision/test_supervisor": {
        "test_a_worker_that_does_not_finish_is_terminated_at_the_graceful_timeout": "worker-no-exit",
    },
    "supervision/test_crashes": {
        "test_a_worker_that_never_gets_ready_again_is_not_started_over_and_over": "worker-disconnect-on-error",
    },
    "whole/test_faults": {
        "test_a_hostile_worker_dies_alone": "invalid-message",
        "test_what_lies_in_the_letterboxes_of_dead_workers_is_answered_by_others": (
            "test-child-process-fork-closed-channel-segfault"
        ),
        "test_a_blocked_worker_says_where_before_it_is_killed": "kill-infinite-loop",
        "test_when_the_master_dies_the_workers_finish_and_leave": "worker-forced-exit",
        "test_a_blocked_worker_does_not_outlive_a_dead_master": "primary-kill",
    },
    "whole/test_http": {
        "test_the_scope_has_the_addresses_of_client_and_server": "http-pipe",
    },
    "whole/test_library": {
        "test_every_event_of_a_worker_that_starts_later_is_seen_in_the_documented_order": (
            "listening-port basic worker-disconnect"
        ),
        "test_an_address_in_use_rises_before_anything_runs": "bind-twice",
        "test_killed_workers_leak_nothing": "shared-leak",
        "test_all_workers_leave_and_others_come_again_and_again_and_nothing_is_left_of_them": (
            "disconnect-leak disconnect-race call-and-destroy disconnect concurrent-disconnect"
        ),
        "test_messages_travel_both_ways_whole_and_in_order": "message send-deadlock send-handle-large-payload",
        "test_a_worker_that_disconnects_itself_finishes_what_it_has_and_is_replaced": "worker-init kill-disconnect",
        "test_a_workers_life_is_told_in_order_with_how_it_ended": (
            "worker-death worker-exit worker-kill worker-kill-signal"
        ),
        "test_disconnect_returns_when_the_last_worker_has_left_and_the_addresses_stay_open": (
            "worker-wait-server-close disconnect-with-no-workers"
        ),
        "test_what_the_block_raises_rises_as_it_is": "primary-error",
        "test_a_forked_worker_and_its_replacement_have_the_environment_it_was_forked_with": "fork-env",
        "test_several_masters_in_one_program_do_not_know_of_each_other": "setup-primary-multiple",
    },
    "whole/test_life": {
        "test_what_workers_print_is_logged_in_whole_lines_and_drives_no_terminal": "fork-stdio",
    },
    "whole/test_programs": {
        "test_addresses_are_opened_once_for_all_workers_that_ask": (
            "net-listen-relative-path server-restart-rr server-restart-none port-reuse-between-workers "
            "eaddrinuse eaccess"
        ),
        "test_what_is_forbidden_rises_where_it_was_asked_for_and_what_bind_opened_is_there": (
            "shared-handle-bind-privileged-port"
        ),
        "test_a_drained_program_finishes_what_it_has_and_then_ends": "rr-handle-close",
        "test_a_fleet_of_programs_in_a_trio_program": "worker-events",
        "test_a_program_that_exits_or_leaves_while_it_serves_is_replaced": "ipc-throw",
        "test_a_package_runs_as_with_python_m_and_check_tries_it": "setup-primary-argv",
    },
    "whole/test_service": {
        "test_pid_file_umask_and_directory_are_as_asked": "cwd",
    },
    "whole/test_serving": {
        "test_a_worker_has_no_more_connections_than_it_may_and_the_others_wait_at_no_cost": (
            "net-server-drop-connection"
        ),
        "test_every_address_is_both_ip_versions": "net-listen-ipv6only-false",
        "test_several_addresses_are_served_at_once": "test-listen-fd-cluster",
    },
}
"""What Node verifies, or its counterpart here, by the test of rrmaster that would fail without it."""

FAULTS = {
    "killed before its ack":
        "whole/test_faults::test_a_storm_of_kills_loses_only_what_was_in_hand",
    "stopped worker":
        "whole/test_faults::test_no_client_waits_for_a_stopped_worker_and_it_serves_again",
    "worker out of descriptors":
        "whole/test_faults::test_a_worker_short_of_descriptors_takes_no_more_and_recovers",
    "master out of descriptors":
        "whole/test_faults::test_a_master_out_of_descriptors_waits_and_loses_nothing",
    "sending to one that has just died":
        "whole/test_library::test_kill_and_disconnect_of_dead_workers_change_nothing_and_sending_to_them_is_an_error",
    "a full line":
        "events/test_bus::test_a_full_line_makes_the_sender_wait_and_grows_nothing",
    "sending to a master that has gone":
        "events/test_bus::test_when_the_master_has_gone_messages_end_and_sending_is_an_error",
    "which worker gets a connection":
        "whole/test_serving::test_held_connections_are_spread_evenly_one_by_one_and_emptied_workers_are_filled_first",
}  # fmt: skip
"""What Node gets wrong or does not test, and the test of rrmaster for it."""

OTHERWISE = {
    "a number of connections beyond which clients are refused: they wait in the backlog": (
        "test-http-server-drop-connections-in-cluster",
    ),
    "an own port for a worker, or one shared by the kernel: the master alone accepts": (
        "net-reuseport", "test-net-listen-exclusive-random-ports", "test-net-listen-shared-ports",
        "shared-handle-bind-error", "test-net-listen-handle-in-cluster-1", "test-net-listen-handle-in-cluster-2",
    ),
    "a default address that is a free port: it is 127.0.0.1:8000": ("net-listen",),
    "ref, unref and domains: what of the loop keeps a process alive is trio's affair": (
        "rr-handle-keep-loop-alive", "rr-handle-ref-unref", "rr-ref", "rr-domain-listen",
    ),
    "sockets sent by hand": ("net-send", "send-handle-twice", "send-socket-to-worker-http-server"),
    "tickets of TLS sessions that all workers know: Python's ssl has no way to share their keys": (
        "test-tls-ticket-cluster",
    ),
    "settings that grow with each call: they are one frozen object, and a reload takes another": (
        "setup-primary", "setup-primary-cumulative", "setup-primary-emit", "worker-constructor",
    ),
    "a debugger's port for each worker": (
        "inspect-brk", "test-inspector-port-cluster", "test-inspector-port-zero-cluster",
        "test-inspector-cluster-port-clash",
    ),
    "the program's own handler of uncaught exceptions: what its block raises rises": ("uncaught-exception",),
    "Windows": ("fork-windowsHide",),
    "an end without a word of a worker that hangs up: that is a breach, it is killed and replaced": (
        "process-disconnect",
    ),
    "UDP": (
        "dgram-1", "dgram-2", "dgram-bind-fd", "dgram-ipv6only", "dgram-reuse", "dgram-reuseport", "child-index-dgram",
        "disconnect-unshared-udp", "test-dgram-cluster-bind-error", "test-dgram-cluster-close-during-bind",
        "test-dgram-cluster-close-in-listening", "test-dgram-bind-socket-close-before-cluster-reply",
        "test-dgram-unref-in-cluster", "test-dgram-exclusive-implicit-bind", "test-dgram-bind-shared-ports",
        "test-dgram-bind-shared-ports-after-port-0",
    ),
}  # fmt: skip
"""What differs here, and why; docs/from-node.md explains it to users."""


ROWS = {row: (module, name) for module, held in HELD.items() for name, rows in held.items() for row in rows.split()}


@cache
def functions_of(module: str) -> frozenset[str]:
    """The names of the functions in a test module."""
    found = ast.walk(ast.parse((TESTS / f"{module}.py").read_text()))
    return frozenset(n.name for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS)
def test_what_node_verifies_is_verified_here(row: str) -> None:
    module, name = ROWS[row]
    assert name in functions_of(module), f"no test verifies {row} any longer"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_node_gets_wrong_is_verified_here(fault: str) -> None:
    module, _, name = FAULTS[fault].partition("::")
    assert name in functions_of(module), f"no test looks at this any longer: {fault}"


def test_every_row_stands_once() -> None:
    rows = [row for held in HELD.values() for rows in held.values() for row in rows.split()]
    rows += [row for others in OTHERWISE.values() for row in others]
    assert sorted(rows) == sorted(set(rows))
