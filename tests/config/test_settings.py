"""Every option has its default, understands its good values and refuses its bad ones by name."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings, options
from rrmaster.config.sources import read
from rrmaster.processes.worker_environment import launch_of
from rrmaster.protocol.launch import FIELDS, Launch
from tests.config.values import APP, BAD, BESIDE, GOOD, LAW, anything, pairs, served
from tests.launches import a_launch


def test_these_tables_show_every_option():
    assert GOOD.keys() == BAD.keys() == {"application", "arguments", *options()}


@pytest.mark.parametrize(("name", "case"), pairs(GOOD))
def test_a_good_value_is_understood(name, case):
    value, wanted = case
    beside = BESIDE.get(name, {}) if wanted not in (None, "none") else {}
    chosen = Settings(**({"application": APP} | beside | {name: value}))
    assert getattr(chosen, name) == (pytest.approx(wanted) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize(("name", "value"), pairs(BAD))
def test_a_bad_value_is_refused_and_the_field_is_named(name, value):
    with pytest.raises(SettingsError, match=rf"^{name}: \S"):
        Settings(**({"application": APP} | {name: value}))


@LAW
@given(st.sampled_from(sorted(GOOD)), anything)
def test_any_value_is_understood_or_refused(name, value):
    try:
        chosen = Settings(**({"application": APP} | {name: value}))
    except SettingsError:
        return
    assert Settings(**attrs.asdict(chosen)) == chosen, "what was understood is understood again"


def test_settings_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings(APP).window = 9


def test_an_option_that_does_not_exist_is_a_type_error():
    with pytest.raises(TypeError):
        Settings(APP, worker=4)


# --- defaults


def test_the_defaults_are_the_documented_ones():
    assert attrs.asdict(Settings(APP)) == {
        "application": APP,
        "arguments": (),
        "bind": ("127.0.0.1:8000",),
        "unix_mode": 0o666,
        "listen_when": "start",
        "backlog": 2048,
        "defer_accept": "auto",
        "reload": False,
        "reload_dir": (),
        "reload_include": (),
        "reload_exclude": (),
        "workers": None,
        "app_dir": None,
        "chdir": None,
        "env_file": None,
        "policy": "least-loaded",
        "window": 8,
        "recall_after": 0.003,
        "worker_connections": None,
        "park_after": "auto",
        "max_parked": None,
        "ready_timeout": 30.0,
        "graceful_timeout": 30.0,
        "hang_timeout": 30.0,
        "heartbeat": 0.5,
        "user": None,
        "master_user": None,
        "new_privileges": "auto",
        "group": None,
        "umask": None,
        "pid": None,
        "log_level": "info",
        "log_format": "text",
        "log_file": None,
        "log_max_size": 20_000_000,
        "log_keep": 5,
        "shutdown_delay": 0.0,
        "admin": None,
        "admin_allow_remote": False,
        "admin_actions": False,
        "admin_token_file": None,
        "ready_when": "any",
        "interface": "auto",
        "runtime": "auto",
        "factory": False,
        "root_path": "",
        "proxy_headers": True,
        "forwarded_allow_ips": "127.0.0.1,::1",
        "keep_alive": 75.0,
        "header_timeout": 10.0,
        "body_timeout": 30.0,
        "send_timeout": 60.0,
        "request_timeout": 0.0,
        "threads": 8,
        "header_map": "drop",
        "limit_request_line": 0,
        "limit_request_fields": 0,
        "limit_request_field_size": 0,
        "lifespan": "auto",
        "access_log": "",
        "access_log_format": "auto",
        "certfile": None,
        "keyfile": None,
        "ca_certs": None,
        "cert_reqs": "none",
        "ciphers": None,
        "proxy_protocol": "off",
        "proxy_allow_from": "127.0.0.1,::1",
        "preload": "auto",
        "kill_mode": "tree",
        "rollback_window": 600.0,
        "surge": 1.0,
        "probation": 2.0,
        "soak": 2.0,
        "reload_timeout": 600.0,
        "probe": None,
        "probe_interval": 10.0,
        "probe_timeout": 2.0,
        "probe_failures": 3,
        "probe_successes": 1,
        "max_requests": 0,
        "max_age": 0.0,
        "max_memory": 0,
        "target_busy": 0.7,
        "scale_up_window": 3.0,
        "scale_down_window": 300.0,
        "control": None,
        "name": None,
    }


def test_a_developer_waits_only_for_what_is_configured():
    chosen = Settings(APP, reload=True)
    assert (chosen.probation, chosen.soak, chosen.graceful_timeout, chosen.workers) == (0.0, 0.0, 1.0, 1)
    asked, origins = read([served(reload="yes", soak="2s", graceful_timeout="1m", workers="auto")])
    assert (asked.probation, asked.soak, asked.graceful_timeout, asked.workers) == (0.0, 2.0, 60.0, None)
    assert (origins["probation"], origins["soak"]) == ("default", "command line")


@pytest.mark.parametrize("name", options())
def test_the_default_shown_is_the_default(name):
    """--help shows `shown`: if that is a value, it must be the default."""
    option, default = options()[name], getattr(Settings(APP), name)
    if option.shown is not None and default is not None and name not in ("bind", "forwarded_allow_ips"):
        assert option.parse(option.shown) == default


def test_a_program_has_arguments_and_no_default_address():
    chosen = Settings("server.py", arguments=["--port", "80"])
    assert (chosen.arguments, chosen.bind) == (("--port", "80"), ())
    assert Settings("-m shop", bind="127.0.0.1:80").bind == ("127.0.0.1:80",), "opened in advance"


# --- what a worker gets of them


def test_a_worker_gets_the_values_that_were_set():
    """And the directories as absolute paths."""
    chosen = Settings(APP, factory=True, keep_alive="75s", app_dir="src", forwarded_allow_ips="*")
    launch = Launch.decode(launch_of(chosen, "/srv").encode())
    assert launch == a_launch(
        application=APP, factory=True, keep_alive=75.0, app_dir="/srv/src", chdir="/srv", forwarded_allow_ips="*"
    )


def test_the_defaults_of_what_a_worker_is_told_are_those_of_the_settings():
    names = set(FIELDS) - {"app_dir", "chdir"}
    chosen, launch = Settings(APP), launch_of(Settings(APP), "/srv")
    assert {name: getattr(launch, name) for name in names} == {name: getattr(chosen, name) for name in names}
