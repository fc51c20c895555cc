"""Settings that do not fit together are refused, and the message says what to change."""

import pytest

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from tests.config.values import APP


def test_a_master_without_any_address_is_refused():
    """It would start, serve no client, and look healthy."""
    with pytest.raises(SettingsError, match="bind"):
        Settings(APP, bind=())


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"keyfile": "key.pem"}, "--keyfile needs --certfile"),
        ({"access_log_format": "common"}, "--access-log-format needs --access-log"),
        ({"ca_certs": "ca.pem"}, "--ca-certs needs --certfile"),
        ({"ciphers": "ECDHE"}, "--ciphers needs --certfile"),
        ({"cert_reqs": "required", "ca_certs": "ca.pem"}, "--ca-certs needs --certfile"),
        ({"certfile": "cert.pem", "cert_reqs": "required"}, "--cert-reqs required needs --ca-certs"),
        ({"certfile": "cert.pem", "cert_reqs": "optional"}, "--cert-reqs optional needs --ca-certs"),
        ({"certfile": "cert.pem", "ca_certs": "ca.pem"}, "add --cert-reqs optional or required"),
    ],
)
def test_an_option_of_tls_that_would_do_nothing_is_refused(chosen, said):
    with pytest.raises(SettingsError, match=said):
        Settings(APP, **chosen)


@pytest.mark.parametrize(("application", "bind"), [(APP, "unix:/run/shop.sock"), (APP, "fd://3"), ("server.py", None)])
def test_to_listen_later_is_refused_where_no_tcp_address_would(application, bind):
    with pytest.raises(SettingsError, match="--listen-when is for TCP addresses"):
        Settings(application, listen_when="ready", **({"bind": (bind,)} if bind else {}))
    Settings(APP, listen_when="ready")


def test_a_worker_is_not_called_hung_between_two_heartbeats():
    with pytest.raises(SettingsError, match="at least twice the heartbeat"):
        Settings(APP, heartbeat="1s", hang_timeout="1.5s")
    Settings(APP, heartbeat="1s", hang_timeout="2s")
    Settings(APP, heartbeat="1s", hang_timeout=0)


# --- programs


def test_what_has_a_colon_is_an_application_also_in_a_file():
    assert Settings("shop/main.py:app").bind == ("127.0.0.1:8000",)
    with pytest.raises(SettingsError, match=r"arguments: \S+ is an application"):
        Settings("shop/main.py:app", arguments=["x"])


@pytest.mark.parametrize("name", ["interface", "runtime", "factory", "root_path", "access_log", "threads", "lifespan"])
def test_an_option_that_a_program_decides_itself_is_refused_and_not_ignored(name):
    value = {"interface": "asgi", "runtime": "trio", "root_path": "/x", "threads": 3, "lifespan": "on"}.get(name, True)
    Settings(APP, **{name: value})
    with pytest.raises(SettingsError, match=f"^{name}: server.py is a program"):
        Settings("server.py", **{name: value})
