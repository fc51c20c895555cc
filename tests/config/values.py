"""Values of every option: good ones with what they mean, and bad ones."""

from hypothesis import settings
from hypothesis import strategies as st

from rrmaster.config.names import LOG_LEVELS, POLICIES
from rrmaster.config.quantities import Between
from rrmaster.config.sources import Source
from rrmaster.protocol.launch import CERT_REQS, INTERFACES, LIFESPANS, RUNTIMES
from rrmaster.protocol.line import MAX_WINDOW
from rrmaster.protocol.proxy_header import MODES

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

APP = "shop.main:app"

HUGE = 10**400
"""A number that TOML can express and a float cannot hold."""

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(HUGE), st.floats(), st.text(), st.binary(),
    st.lists(st.text(max_size=5) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


def served(**values: object) -> Source:
    """A command line that names an application, with these options."""
    return Source("command line", {"application": APP} | values)


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
    "header_timeout": [("20s", 20.0), ("0", 0.0)],
    "body_timeout": [("1m", 60.0), ("0", 0.0)],
    "request_timeout": [("30s", 30.0), ("0", 0.0)],
    "threads": [("1", 1), (1000, 1000)],
    "header_map": [(word, word) for word in ("drop", "refuse", "dangerous")],
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
    "new_privileges": [("auto", "auto"), ("on", "on"), ("off", "off")],
    "group": [("www", "www"), (None, None)],
    "umask": [("027", 0o027), (0o077, 0o077), (None, None)],
    "pid": [("/run/app.pid", "/run/app.pid"), (None, None)],
    "log_level": [(level, level) for level in LOG_LEVELS],
    "log_format": [("text", "text"), ("json", "json")],
    "log_file": [("/var/log/app.log", "/var/log/app.log"), ("-", "-"), (None, None)],
    "log_max_size": [("20MB", 20_000_000), ("512MB", 512_000_000), ("64KiB", 65536), ("0", 0), (4096, 4096)],
    "log_keep": [("0", 0), (5, 5)],
    "preload": [("auto", "auto"), ("on", "on"), ("off", "off")],
    "kill_mode": [("tree", "tree"), ("group", "group")],
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
"""The other options that these require."""

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
    "header_timeout": ["-1", "x", None],
    "body_timeout": ["-1", "x", None],
    "request_timeout": ["-1", "x", None],
    "threads": ["0", 0, 1001, "x", None, True],
    "header_map": ["", "Drop", "allow", None, True],
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
    "new_privileges": ["yes", "", None, True],
    "group": ["", 5],
    "umask": ["8", -1, "rwx"],
    "pid": ["", 5],
    "log_level": ["", "INFO", "verbose", None, 5],
    "log_format": ["", "JSON", "xml", None, 5],
    "log_file": ["", 5],
    "log_max_size": ["", "big", "-1", -1, "20 MiBs", True, None, 1.5],
    "log_keep": ["-1", -1, "many", None, True],
    "preload": ["yes", "", None, True],
    "kill_mode": ["process", "", None, True],
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
