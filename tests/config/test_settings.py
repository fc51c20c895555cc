"""What is to be served: what is understood, what is refused, with which words, and who wins."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.cli import main
from rrmaster.config import sources as law
from rrmaster.config.option import SettingsError, flag
from rrmaster.config.parsing import (
    LOG_LEVELS,
    POLICIES,
    Between,
    Inherited,
    Tcp,
    Unix,
    parse_bind,
    parse_binds,
    parse_duration,
)
from rrmaster.config.settings import Settings, options
from rrmaster.config.sources import Source, conventions, from_environment, from_table, read, variable
from rrmaster.processes.worker_environment import launch_of
from rrmaster.protocol.launch import CERT_REQS, FIELDS, INTERFACES, LIFESPANS, RUNTIMES, Launch
from rrmaster.protocol.line import MAX_WINDOW
from rrmaster.protocol.proxy_header import MODES

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

APP = "shop.main:app"
HUGE = 10**400
"""A number that TOML can write and a float cannot hold."""

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(HUGE), st.floats(), st.text(), st.binary(),
    st.lists(st.text(max_size=5) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


def served(**values: object) -> Source:
    """A command line with an application."""
    return Source("command line", {"application": APP} | values)


# --- addresses


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000)),
        ("localhost:80", Tcp("localhost", 80)),
        ("localhost", Tcp("localhost", 8000)),
        (":8080", Tcp("", 8080)),
        ("*:8080", Tcp("*", 8080)),
        ("0.0.0.0:0", Tcp("0.0.0.0", 0)),
        ("[::1]:65535", Tcp("::1", 65535)),
        ("[::]:80", Tcp("::", 80)),
        ("[::1]", Tcp("::1", 8000)),
        ("[fe80::1%eth0]:80", Tcp("fe80::1%eth0", 80)),
        ("unix:/run/app.sock", Unix("/run/app.sock")),
        ("unix:///run/app.sock", Unix("/run/app.sock")),
        ("unix:app.sock", Unix("app.sock")),
        ("fd://3", Inherited(3)),
    ],
)
def test_an_address_is_understood(text, bind):
    assert parse_bind(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "localhost:", "localhost:http", "localhost:-1", "localhost:65536", "localhost:8e3", "a b:80",
        "::1", "::1:8000", "[::1]:", "[::1]8000", "[::1", "http://localhost:80", "localhost:80/path", "unix:",
        "fd://", "fd://x", "fd://-1", "localhost:80\n",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_words(text):
    with pytest.raises(ValueError, match=r"."):
        parse_bind(text)


def test_several_addresses_may_be_given_as_a_list_or_with_commas():
    assert parse_binds("localhost:1, unix:a.sock") == ("localhost:1", "unix:a.sock")
    assert parse_binds(["localhost:1", "fd://3"]) == ("localhost:1", "fd://3")
    assert Settings(APP, bind="localhost:1,localhost:2").binds == (Tcp("localhost", 1), Tcp("localhost", 2))


@pytest.mark.parametrize("value", [8000, None, True, b"localhost", "", "a:1,", "a:1,,b:1", ["a:1", 2], ["a:1", "a:1"]])
def test_what_is_no_list_of_addresses_is_refused(value):
    with pytest.raises(ValueError, match=r"."):
        parse_binds(value)


def test_a_master_without_any_address_is_refused():
    """It would start, serve nobody, and look well."""
    with pytest.raises(SettingsError, match="bind"):
        Settings(APP, bind=())


# --- numbers, times, names


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("500ms", 0.5), ("30s", 30.0), ("30", 30.0), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0), ("250us", 250e-6),
        ("1.5s", 1.5), (".5s", 0.5), ("2.m", 120.0), (" 3 s ", 3.0), (7, 7.0), (0.25, 0.25), (0, 0.0), ("0", 0.0),
    ],
)  # fmt: skip
def test_a_duration_is_understood(value, seconds):
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "", "s", "ms", "-1s", "1 s s", "1e3", "5S", "3 weeks", "1,5s", "nan", "inf", -1, -0.5, True, None, [], b"1s",
        float("nan"), float("inf"), pytest.param("9" * 400, id="digits"), pytest.param(HUGE, id="huge"),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_and_told_how_to_write_one(value):
    with pytest.raises(ValueError, match="write 500ms, 30s, 2m"):
        parse_duration(value)


SWITCH = [("true", True), ("No", False), ("on", True), ("0", False), (True, True), (False, False)]
GOOD = {
    "application": [
        ("shop.main:app", "shop.main:app"),
        ("m:a.b", "m:a.b"),
        ("ümlaut:x", "ümlaut:x"),
        ("bin/a b.py", "bin/a b.py"),
        ("-m shop.server", "-m shop.server"),
    ],
    "arguments": [((), ()), ([], ())],
    "bind": [("a:1", ("a:1",)), (["a:1", "b:2"], ("a:1", "b:2"))],
    "unix_mode": [("660", 0o660), ("0o660", 0o660), ("0", 0), (0o600, 0o600), ("777", 0o777)],
    "backlog": [("1", 1), (65535, 65535)],
    "reload": [("yes", True), ("false", False), (True, True), (False, False), ("ON", True), ("0", False)],
    "reload_dir": [("src", ("src",)), ("a, b", ("a", "b")), (["a,b", "c"], ("a,b", "c")), ((), ())],
    "reload_include": [("*.html", ("*.html",)), (["*.html", "*.toml"], ("*.html", "*.toml")), ([], ())],
    "reload_exclude": [("tests,build/*", ("tests", "build/*")), (("a", "a"), ("a",))],
    "workers": [("4", 4), (1, 1), (" 8 ", 8), ("auto", None), (None, None), (1024, 1024), ("2:8", Between(2, 8))],
    "interface": [(interface, interface) for interface in INTERFACES],
    "runtime": [(runtime, runtime) for runtime in RUNTIMES],
    "factory": SWITCH,
    "root_path": [("/shop", "/shop"), ("/a/b", "/a/b"), ("", "")],
    "proxy_headers": SWITCH,
    "forwarded_allow_ips": [("::1", "::1"), ("10.0.0.0/8, 127.0.0.1", "10.0.0.0/8,127.0.0.1"), ("*", "*"), ("", "")],
    "keep_alive": [("75s", 75.0), ("0", 0.0)],
    "threads": [("1", 1), (1000, 1000)],
    "limit_request_line": [("4094", 4094), (0, 0), ("1048576", 1024 * 1024)],
    "limit_request_fields": [("100", 100), (0, 0), (32768, 32768)],
    "limit_request_field_size": [("8190", 8190), (0, 0)],
    "lifespan": [(lifespan, lifespan) for lifespan in LIFESPANS],
    "access_log": SWITCH,
    "certfile": [("cert.pem", "cert.pem"), (None, None)],
    "keyfile": [("key.pem", "key.pem"), (None, None)],
    "ca_certs": [("ca.pem", "ca.pem"), (None, None)],
    "cert_reqs": [*((word, word) for word in reversed(CERT_REQS)), ("0", "none"), (1, "optional"), ("2", "required")],
    "ciphers": [("ECDHE+AESGCM", "ECDHE+AESGCM"), (None, None)],
    "proxy_protocol": [(mode, mode) for mode in MODES],
    "proxy_allow_from": [("10.0.0.0/8, ::1", "10.0.0.0/8,::1"), ("*", "*"), ("", "")],
    "app_dir": [("src", "src"), (None, None)],
    "env_file": [(".env", ".env"), (None, None)],
    "chdir": [("/srv", "/srv"), (None, None)],
    "policy": [*((name, name) for name in POLICIES), ("shop.balance:choose", "shop.balance:choose")],
    "window": [("1", 1), (MAX_WINDOW, MAX_WINDOW)],
    "recall_after": [("5ms", 0.005), (0.1, 0.1)],
    "worker_connections": [("1", 1), (10_000_000, 10_000_000)],
    "ready_timeout": [("1m", 60.0)],
    "graceful_timeout": [("0", 0.0), (10, 10.0)],
    "hang_timeout": [("0", 0.0), ("2m", 120.0)],
    "heartbeat": [("100ms", 0.1)],
    "user": [("www", "www"), ("1000", "1000"), (None, None)],
    "group": [("www", "www"), (None, None)],
    "umask": [("027", 0o027), (0o077, 0o077), (None, None)],
    "pid": [("/run/app.pid", "/run/app.pid"), (None, None)],
    "log_level": [(level, level) for level in LOG_LEVELS],
    "log_format": [("text", "text"), ("json", "json")],
    "log_file": [("/var/log/app.log", "/var/log/app.log"), ("-", "-"), (None, None)],
    "log_max_size": [("20MB", 20_000_000), ("512MB", 512_000_000), ("64KiB", 65536), ("0", 0), (4096, 4096)],
    "log_keep": [("0", 0), (5, 5)],
    "preload": [("auto", "auto"), ("on", "on"), ("off", "off")],
    "rollback_window": [("10m", 600.0), ("0", 0.0), (5, 5.0)],
    "surge": [("100%", 1.0), ("25%", 0.25), ("1", 1), (3, 3), (0.5, 0.5)],
    "probation": [("0", 0.0), ("2s", 2.0)],
    "soak": [("0", 0.0), ("2s", 2.0)],
    "reload_timeout": [("10m", 600.0)],
    "probe": [
        ("tcp", "tcp"),
        ("http:/healthz", "http:/healthz"),
        ("shop.health:well", "shop.health:well"),
        (None, None),
    ],
    "probe_interval": [("10s", 10.0)],
    "probe_timeout": [("2s", 2.0)],
    "probe_failures": [("1", 1), (3, 3)],
    "probe_successes": [("1", 1), (3, 3)],
    "max_requests": [("0", 0), ("1000", 1000)],
    "max_age": [("0", 0.0), ("1d", 86400.0)],
    "max_memory": [("0", 0), ("512MB", 512_000_000)],
    "target_busy": [("70%", 0.7), (1.0, 1.0)],
    "scale_up_window": [("0", 0.0), ("3s", 3.0)],
    "scale_down_window": [("5m", 300.0)],
    "control": [("/run/shop.sock", "/run/shop.sock"), (None, None)],
    "name": [("shop", "shop")],
}
BESIDE = {
    "keyfile": {"certfile": "cert.pem"},
    "ca_certs": {"certfile": "cert.pem", "cert_reqs": "required"},
    "cert_reqs": {"certfile": "cert.pem", "ca_certs": "ca.pem"},
    "ciphers": {"certfile": "cert.pem"},
}
"""What these need beside them."""
BAD = {
    "application": [
        "",
        "shop",
        "shop:",
        ":app",
        "shop.main",
        "a b:c",
        "shop..main:app",
        "shop:app()",
        5,
        None,
        "-m ",
        "-m a b",
        "-m shop/server.py",
        "\0.py",
        "shop.pyc",
    ],
    "arguments": ["--verbose", [5], ["\0"], None, {"a": 1}],
    "bind": ["", "localhost:x", 80, ["a:1", "a:1"]],
    "unix_mode": ["", "888", "1777", "rw", -1, 0o1000, True, None],
    "backlog": ["0", 0, -1, 65536, "many", 1.5, True, None],
    "reload": ["", "maybe", 1, 0, None, "y"],
    "reload_dir": ["", "a,,b", 5, None, ["a", 5], [""], b"a"],
    "reload_include": ["", ".", "*.py,", 5, None, ["*.py", "."]],
    "reload_exclude": ["", ".", 5, None, [None]],
    "workers": ["0", 0, -1, 1025, "four", "", 2.0, True, "8:2", "0:2", "2:", ":"],
    "interface": ["", "ASGI", "http", None, 5],
    "runtime": ["", "curio", None, 5],
    "factory": ["", "maybe", 2, None],
    "root_path": ["/", "shop", "/shop/", "/a b", "/a?b", None, 5],
    "proxy_headers": ["", "maybe", 2, None],
    "forwarded_allow_ips": ["localhost", "10.0.0.1/8", "1.2.3", None, 5],
    "keep_alive": ["-1", "x", None],
    "threads": ["0", 0, 1001, "x", None, True],
    "limit_request_line": ["-1", 1024 * 1024 + 1, "4k", None, True],
    "limit_request_fields": ["-1", 32769, "x", None, True],
    "limit_request_field_size": ["-1", 1024 * 1024 + 1, "x", None, True],
    "lifespan": ["", "yes", True, None],
    "access_log": ["", "maybe", 2, None],
    "certfile": ["", 5],
    "keyfile": ["", 5],
    "ca_certs": ["", 5],
    "cert_reqs": ["", "3", 3, -1, "CERT_REQUIRED", True, None],
    "ciphers": ["", 5],
    "proxy_protocol": ["", "on", "v3", True, None],
    "proxy_allow_from": ["localhost", "10.0.0.1/8", None, 5],
    "app_dir": ["", 5],
    "env_file": ["", 5],
    "chdir": ["", 5],
    "policy": ["", "least_loaded", "random", "module:", None, 5, ["least-loaded"]],
    "window": ["0", 0, MAX_WINDOW + 1, "x", None, True],
    "recall_after": ["0", 0, "-1ms", "soon", None],
    "worker_connections": ["0", 10_000_001, "x", None],
    "ready_timeout": ["0s", "x", None],
    "graceful_timeout": ["-1", "x", None],
    "hang_timeout": ["-1", "x", None],
    "heartbeat": [0, "0ms", "x", None],
    "user": ["", 5],
    "group": ["", 5],
    "umask": ["8", -1, "rwx"],
    "pid": ["", 5],
    "log_level": ["", "INFO", "verbose", None, 5],
    "log_format": ["", "JSON", "xml", None, 5],
    "log_file": ["", 5],
    "log_max_size": ["", "big", "-1", -1, "20 MiBs", True, None, 1.5],
    "log_keep": ["-1", -1, "many", None, True],
    "preload": ["yes", "", None, True],
    "rollback_window": ["-1", "x", None],
    "surge": ["0", 0, "0%", "101%", "some", 1.5, -1, None, True],
    "probation": ["-1", "x", None],
    "soak": ["-1", "x", None],
    "reload_timeout": ["0", "x", None],
    "probe": ["", "udp", "http:", "https:/x", "module:", 5],
    "probe_interval": ["0", "x", None],
    "probe_timeout": ["0", "x", None],
    "probe_failures": ["0", 0, "x", None, True],
    "probe_successes": ["0", 0, "x", None, True],
    "max_requests": ["-1", -1, "x", None, True],
    "max_age": ["-1", "x", None],
    "max_memory": ["", "big", -1, None, True],
    "target_busy": ["0%", "101%", "x", 0.0, 1.5, None],
    "scale_up_window": ["-1", "x", None],
    "scale_down_window": ["-1", "x", None],
    "control": ["", 5],
    "name": ["", 5],
}


def pairs(table: dict[str, list]) -> list[tuple]:
    return [(name, value) for name, values in table.items() for value in values]


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


@pytest.mark.parametrize(("name", "value"), pairs(BAD))
def test_a_bad_value_is_named_as_it_is_spelled_in_its_source(name, value):
    good = {"application": APP}
    for source, spelled in (
        (lambda: Source("command line", good | {name: value}), flag(name)),
        (lambda: Source("environment", good | {name: value}, variable), variable(name)),
        (lambda: from_table(good | {name: value}, "rrmaster.toml"), f"rrmaster.toml: {name}"),
    ):
        with pytest.raises(SettingsError) as caught:
            read([source()])
        assert str(caught.value).startswith(f"{spelled}: ")
        assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("key", ["recall-after", "recall_after"])
def test_a_key_of_the_file_is_named_as_it_is_written_there(key):
    with pytest.raises(SettingsError, match=f"^rrmaster.toml: {key}: "):
        read([served(), from_table({key: "soon"}, "rrmaster.toml")])


@LAW
@given(st.sampled_from(sorted(GOOD)), anything)
def test_any_value_at_all_is_understood_or_refused(name, value):
    try:
        chosen = Settings(**({"application": APP} | {name: value}))
    except SettingsError:
        return
    assert Settings(**attrs.asdict(chosen)) == chosen, "what was understood is understood again"


@LAW
@given(st.text(alphabet="[]:/.*%@ unixfd0123456789localhost\n", max_size=20) | st.text(max_size=20))
def test_any_text_at_all_is_an_address_or_refused(text):
    try:
        bind = parse_bind(text)
    except ValueError:
        return
    assert isinstance(bind, Tcp | Unix | Inherited)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"keyfile": "key.pem"}, "--keyfile needs --certfile"),
        ({"ca_certs": "ca.pem"}, "--ca-certs needs --certfile"),
        ({"ciphers": "ECDHE"}, "--ciphers needs --certfile"),
        ({"cert_reqs": "required", "ca_certs": "ca.pem"}, "--ca-certs needs --certfile"),
        ({"certfile": "cert.pem", "cert_reqs": "required"}, "--cert-reqs required needs --ca-certs"),
        ({"certfile": "cert.pem", "cert_reqs": "optional"}, "--cert-reqs optional needs --ca-certs"),
        ({"certfile": "cert.pem", "ca_certs": "ca.pem"}, "say --cert-reqs optional or required"),
    ],
)
def test_an_option_of_tls_that_would_do_nothing_is_refused(chosen, said):
    with pytest.raises(SettingsError, match=said):
        Settings(APP, **chosen)


def test_a_worker_is_not_called_hung_between_two_heartbeats():
    with pytest.raises(SettingsError, match="at least twice the heartbeat"):
        Settings(APP, heartbeat="1s", hang_timeout="1.5s")
    Settings(APP, heartbeat="1s", hang_timeout="2s")
    Settings(APP, heartbeat="1s", hang_timeout=0)


# --- the class


def test_the_defaults_are_those_that_were_promised():
    assert attrs.asdict(Settings(APP)) == {
        "application": APP,
        "arguments": (),
        "bind": ("127.0.0.1:8000",),
        "unix_mode": 0o666,
        "backlog": 2048,
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
        "worker_connections": 10_000,
        "ready_timeout": 30.0,
        "graceful_timeout": 30.0,
        "hang_timeout": 30.0,
        "heartbeat": 0.5,
        "user": None,
        "group": None,
        "umask": None,
        "pid": None,
        "log_level": "info",
        "log_format": "text",
        "log_file": None,
        "log_max_size": 20_000_000,
        "log_keep": 5,
        "interface": "auto",
        "runtime": "auto",
        "factory": False,
        "root_path": "",
        "proxy_headers": True,
        "forwarded_allow_ips": "127.0.0.1,::1",
        "keep_alive": 5.0,
        "threads": 8,
        "limit_request_line": 0,
        "limit_request_fields": 0,
        "limit_request_field_size": 0,
        "lifespan": "auto",
        "access_log": False,
        "certfile": None,
        "keyfile": None,
        "ca_certs": None,
        "cert_reqs": "none",
        "ciphers": None,
        "proxy_protocol": "off",
        "proxy_allow_from": "127.0.0.1,::1",
        "preload": "auto",
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


def test_a_developer_waits_for_nothing_but_what_he_asks_for():
    chosen = Settings(APP, reload=True)
    assert (chosen.probation, chosen.soak, chosen.graceful_timeout, chosen.workers) == (0.0, 0.0, 1.0, 1)
    asked, origins = read([served(reload="yes", soak="2s", graceful_timeout="1m", workers="auto")])
    assert (asked.probation, asked.soak, asked.graceful_timeout, asked.workers) == (0.0, 2.0, 60.0, None)
    assert (origins["probation"], origins["soak"]) == ("default", "command line")


@pytest.mark.parametrize("name", options())
def test_the_default_shown_is_the_default(name):
    """--help shows `shown`; where it is a value, it must be the value."""
    option, default = options()[name], getattr(Settings(APP), name)
    if option.shown is not None and default is not None and name not in ("bind", "forwarded_allow_ips"):
        assert option.parse(option.shown) == default


def test_settings_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings(APP).window = 9


def test_an_option_that_does_not_exist_is_a_type_error():
    with pytest.raises(TypeError):
        Settings(APP, worker=4)


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [("policy", "least-loded", "least-loaded"), ("policy", "iphash", "ip-hash"), ("log_level", "warn", "warning")],
)
def test_a_typing_error_in_a_word_gets_a_suggestion(field, value, instead):
    with pytest.raises(SettingsError, match=rf"did you mean {instead}\?"):
        Settings(APP, **{field: value})


# --- the sources

ORDER = ("command line", "environment", "rrmaster.toml")


@LAW
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"workers": st.integers(1, 9), "window": st.integers(1, 9), "backlog": st.integers(1, 9)}
        ),
        min_size=3,
        max_size=3,
    )
)
def test_flags_come_before_environment_before_file_before_default(tables):
    flags, environ, file = tables
    environment, complaints = from_environment({variable(name): str(value) for name, value in environ.items()})
    chosen, origins = read([served(**flags), environment, from_table(file, "rrmaster.toml")])
    assert complaints == []
    for name in ("workers", "window", "backlog"):
        origin = next((where for where, table in zip(ORDER, tables, strict=True) if name in table), "default")
        assert origins[name] == origin
        wanted = getattr(Settings(APP), name) if origin == "default" else tables[ORDER.index(origin)][name]
        assert getattr(chosen, name) == wanted
    assert origins["application"] == "command line"


def test_every_value_has_an_origin():
    _, origins = read([served()])
    assert origins.keys() == {"application", "arguments", *options()}
    assert set(origins.values()) == {"command line", "default"}


def test_what_the_platform_says_comes_after_all_that_was_written_for_us():
    """WEB_CONCURRENCY and PORT, as gunicorn and uvicorn read them."""
    environ = {"WEB_CONCURRENCY": "3", "PORT": "5000"}
    chosen, origins = read([served(), conventions(environ)])
    assert (chosen.workers, chosen.bind) == (3, ("0.0.0.0:5000",))
    assert (origins["workers"], origins["bind"]) == ("environment", "environment")
    chosen, _ = read([served(workers="7"), from_table({"bind": "localhost:1"}, "x.toml"), conventions(environ)])
    assert (chosen.workers, chosen.bind) == (7, ("localhost:1",))


def test_the_platform_may_name_the_proxies():
    chosen, _ = read([served(), conventions({"FORWARDED_ALLOW_IPS": "10.0.0.0/8"})])
    assert chosen.forwarded_allow_ips == "10.0.0.0/8"


def test_empty_variables_of_the_platform_say_nothing():
    chosen, origins = read([served(), conventions({"WEB_CONCURRENCY": "", "PORT": "", "FORWARDED_ALLOW_IPS": ""})])
    assert chosen == Settings(APP)
    assert origins["workers"] == "default"


@pytest.mark.parametrize("name", ["WEB_CONCURRENCY", "PORT", "FORWARDED_ALLOW_IPS"])
def test_a_bad_variable_of_the_platform_is_named(name):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        read([served(), conventions({name: "many"})])


@pytest.mark.parametrize("name", options())
def test_every_option_is_a_variable_and_a_key(name):
    value = next(value for value, wanted in GOOD[name] if isinstance(value, str))
    environment, _ = from_environment({f"RRMASTER_{name.upper()}": value})
    for source in (environment, from_table({name.replace("_", "-"): value}, "f"), from_table({name: value}, "f")):
        chosen, origins = read([source, served(**BESIDE.get(name, {}))])
        assert getattr(chosen, name) == getattr(Settings(APP, **BESIDE.get(name, {}) | {name: value}), name)
        assert origins[name] == source.name


def test_a_variable_that_looks_like_an_option_and_is_none_is_told_of():
    source, complaints = from_environment({"RRMASTER_WORKER": "4", "HOME": "/", "RRMASTER_WINDOW": "4"})
    assert complaints == ["RRMASTER_WORKER is no setting of rrmaster and is ignored; did you mean RRMASTER_WORKERS?"]
    assert source.values == {"window": "4"}


def test_what_a_master_says_to_its_workers_is_no_mistake():
    """A master that is started by a worker of another one sees these."""
    _, complaints = from_environment(dict.fromkeys(law.WORKER_VARIABLES, "1"))
    assert complaints == []


@pytest.mark.parametrize(
    ("key", "instead"), [("worker", "workers"), ("bindd", "bind"), ("graceful-timeot", "graceful_timeout")]
)
def test_an_unknown_key_is_refused_with_a_suggestion(key, instead):
    with pytest.raises(SettingsError, match=rf"^rrmaster\.toml: there is no setting '{key}'; did you mean {instead}\?"):
        from_table({"application": APP, key: 4}, "rrmaster.toml")


def test_an_unknown_key_like_no_other_is_refused_without_one():
    with pytest.raises(SettingsError) as caught:
        from_table({"zzz": 4}, "rrmaster.toml")
    assert "did you mean" not in str(caught.value)


def test_the_application_may_stand_in_the_file():
    chosen, origins = read([Source("command line", {}), from_table({"application": APP}, "rrmaster.toml")])
    assert chosen.application == APP
    assert origins["application"] == "rrmaster.toml"


def test_nothing_to_serve_is_said_with_what_to_try():
    with pytest.raises(SettingsError, match=r"rrmaster\.demo:hello"):
        read([])


@pytest.mark.parametrize("key", ["unix_mode", "unix-mode", "umask"])
def test_a_mode_in_a_file_is_text(key):
    """A plain 440 would be 0o670."""
    with pytest.raises(SettingsError, match=f"rrmaster.toml: {key}: write the mode as text"):
        from_table({key: 440}, "rrmaster.toml")


# --- what workers are told of them


def test_a_worker_is_told_what_was_set():
    """And the directories as they are from anywhere."""
    told = {"factory": True, "keep_alive": 75.0, "recall_after": 0.04, "forwarded_allow_ips": "*"}
    launch = Launch.decode(launch_of(Settings(APP, app_dir="src", **told), "/srv").encode())
    expected = {name: getattr(Settings(APP), name) for name in FIELDS} | told
    assert attrs.asdict(launch) == expected | {"app_dir": "/srv/src", "chdir": "/srv"}


def test_the_defaults_of_what_a_worker_is_told_are_those_of_the_settings():
    names = set(FIELDS) - {"app_dir", "chdir"}
    chosen, launch = Settings(APP), launch_of(Settings(APP), "/srv")
    assert {name: getattr(launch, name) for name in names} == {name: getattr(chosen, name) for name in names}
    assert all(field.default is attrs.NOTHING for field in attrs.fields(Launch)), "and are declared there alone"


# --- programs


def test_a_program_has_its_own_arguments_and_no_address_of_ours():
    chosen = Settings("server.py", arguments=["--port", "80"])
    assert (chosen.arguments, chosen.bind) == (("--port", "80"), ())
    assert Settings("-m shop", bind="127.0.0.1:80").bind == ("127.0.0.1:80",), "opened in advance, if it is asked for"


def test_what_has_a_colon_is_an_application_also_in_a_file():
    assert Settings("shop/main.py:app").bind == ("127.0.0.1:8000",)
    with pytest.raises(SettingsError, match=r"arguments: \S+ is no program"):
        Settings("shop/main.py:app", arguments=["x"])


@pytest.mark.parametrize("name", ["interface", "runtime", "factory", "root_path", "access_log", "threads", "lifespan"])
def test_what_a_program_decides_itself_is_refused_and_not_ignored(name):
    value = {"interface": "asgi", "runtime": "trio", "root_path": "/x", "threads": 3, "lifespan": "on"}.get(name, True)
    Settings(APP, **{name: value})
    with pytest.raises(SettingsError, match=f"^{name}: server.py is a program"):
        Settings("server.py", **{name: value})


def test_what_a_platform_says_of_addresses_a_program_reads_for_itself():
    platform = conventions({"PORT": "80", "WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "*"})
    chosen, origins = read([Source("command line", {"application": "server.py"}), platform])
    assert (chosen.bind, chosen.workers, origins["bind"]) == ((), 3, "default")
    assert read([served(), platform])[0].bind == ("0.0.0.0:80",)


def test_a_program_and_its_arguments_may_stand_in_the_file():
    chosen, _ = read([from_table({"application": "-m shop", "arguments": ["-v"]}, "rrmaster.toml")])
    assert (chosen.application, chosen.arguments) == ("-m shop", ("-v",))


@pytest.mark.parametrize(
    ("argv", "application", "arguments"),
    [
        (["-w", "4", "server.py", "-w", "8", "--help", "x:y"], "server.py", ["-w", "8", "--help", "x:y"]),
        (["--workers=4", "--access-log", "./a/b.py"], "./a/b.py", []),
        (["-w4", "-m", "shop.server", "-m", "x"], "-m shop.server", ["-m", "x"]),
        (["-mshop", "server.py"], "-m shop", ["server.py"]),
        (["shop:app", "-w", "4"], "shop:app", []),
        (["-c", "x.py", "shop.py:app"], "shop.py:app", []),
    ],
)
def test_all_that_follows_a_program_is_the_programs(argv, application, arguments):
    parsed = main._parse(argv)
    assert (parsed.application, list(parsed.arguments)) == (application, arguments)


def test_a_program_and_an_application_are_one_too_many():
    with pytest.raises(main._Usage, match="already named"):
        main._parse(["shop:app", "server.py"])
