"""What is to be served, where and how: one frozen, validated class.

Each option is declared once, as a field of `Settings`, and is flag, environment variable (``RRMASTER_<NAME>``), key of
``rrmaster.toml`` or ``[tool.rrmaster]``, and keyword argument of the library at the same time (see `sources`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen

from ..protocol.launch import INTERFACES, LIFESPANS, PRELOADS, RUNTIMES, TRUSTED_PROXIES, is_program
from ..protocol.line import MAX_WINDOW
from ..protocol.proxy_header import MODES
from . import consistency
from .option import Option, SettingsError, named, option
from .parsing import (
    Between,
    Bind,
    from_to,
    one_of,
    parse_application,
    parse_arguments,
    parse_bind,
    parse_binds,
    parse_cert_reqs,
    parse_duration,
    parse_globs,
    parse_level,
    parse_log_format,
    parse_mode,
    parse_own_name,
    parse_policy,
    parse_probe,
    parse_proxies,
    parse_root_path,
    parse_share,
    parse_size,
    parse_surge,
    parse_switch,
    parse_text,
    parse_texts,
    parse_umask,
    parse_workers,
    positive_duration,
)


def _default_bind(settings: Settings) -> tuple[str, ...]:
    """A program opens its own addresses."""
    return () if is_program(settings.application) else ("127.0.0.1:8000",)


def _parse_binds_or_none(value: object) -> tuple[str, ...]:
    return () if value == () else parse_binds(value)


def _developing(value: Any, otherwise: Any) -> Any:
    """A default that is another with --reload: a developer waits for nothing, and has one worker as uvicorn does."""
    return attrs.Factory(lambda self: value if self.reload else otherwise, takes_self=True)


MAX_HEAD = 1024 * 1024
"""Bytes: no limit of a request's head is larger."""

_DEVELOPMENT = "development"
_WHERE, _WHO, _HOW, _HTTP = "where to serve", "workers", "which worker gets a connection", "HTTP"
_TLS, _PROXY = "TLS", "behind a proxy of connections"
_RELOAD, _RENEW = "reload and health", "recycling and scaling"
_PATIENCE, _PROCESS, _OTHER = "how long to wait", "process", "configuration and output"


@frozen
class Settings:
    """What `rrmaster` is told.  Times are in seconds; texts such as "500ms" are taken too.

    Raises SettingsError for a value that cannot be.
    """

    application: str = attrs.field(converter=named(parse_application))  # type: ignore[misc]  # the plugin wants a name
    """``module:attribute`` of a stream handler, an ASGI or a WSGI application, or what makes one (`factory`); or a
    program that opens its own addresses: ``server.py`` or ``-m package``."""

    arguments: tuple[str, ...] = attrs.field(default=(), converter=named(parse_arguments), kw_only=True)  # type: ignore[misc]  # as above
    """The program's own."""

    bind: tuple[str, ...] = option(
        attrs.Factory(_default_bind, takes_self=True),
        _parse_binds_or_none,
        _WHERE,
        "ADDRESS",
        "HOST:PORT, [v6]:PORT, unix:PATH or fd://N; port 0 takes a free one; may be given several times; of a "
        "program: opened in advance, for the program that asks for just this address",
        flags=("-b",),
        repeatable=True,
        shown="127.0.0.1:8000, or 0.0.0.0:$PORT where PORT is set; of a program, none",
    )
    unix_mode: int = option(
        0o666,
        parse_mode,
        _WHERE,
        "MODE",
        "permissions of unix sockets, in octal; the default lets a web server of another user in",
        shown="666",
    )
    # gunicorn's and uvicorn's; net.core.somaxconn caps it.
    backlog: int = option(
        2048, from_to(1, 65535), _WHERE, "N", "connections that may wait in the kernel: the only queue there is"
    )

    # uvicorn's names.  They stand before all whose defaults depend on them.
    reload: bool = option(
        False,
        parse_switch,
        _DEVELOPMENT,
        "",
        "watch the code, and when it changes replace the workers by new ones, if those are good",
    )
    reload_dir: tuple[str, ...] = option(
        (),
        parse_texts,
        _DEVELOPMENT,
        "DIR",
        "watch this directory instead of the application's; may be given several times",
        repeatable=True,
    )
    reload_include: tuple[str, ...] = option(
        (),
        parse_globs,
        _DEVELOPMENT,
        "GLOB",
        "files that count beside *.py; may be given several times",
        repeatable=True,
    )
    reload_exclude: tuple[str, ...] = option(
        (),
        parse_globs,
        _DEVELOPMENT,
        "GLOB",
        "files and directories that do not count, beside .git, .venv, node_modules, __pycache__ and the like; "
        "may be given several times",
        repeatable=True,
    )

    workers: int | Between | None = option(  # noqa: RUF009  # it sees a dataclass in the union
        _developing(1, None),
        parse_workers,
        _WHO,
        "N|auto|LEAST:MOST",
        "worker processes; auto: one for each processor this process may use; 2:8: as many as the load asks for",
        flags=("-w",),
        shown="$WEB_CONCURRENCY, else auto; with --reload 1",
    )
    interface: str = option(
        "auto",
        one_of("interface", INTERFACES),
        _WHO,
        "KIND",
        "what the application is: stream (async def handler(stream), on trio, or handler(reader, writer), on asyncio), "
        "asgi or wsgi; auto: its parameters tell",
    )
    runtime: str = option(
        "auto",
        one_of("runtime", RUNTIMES),
        _WHO,
        "RUNTIME",
        "what it runs on: trio, asyncio or uvloop; auto: trio for handler(stream), else uvloop where it is installed",
    )
    factory: bool = option(
        False, parse_switch, _WHO, "", "what is named makes the application: it is called without arguments"
    )
    # Forking is what makes a replacement take milliseconds and a worker a few megabytes; what an import must not have
    # done for it can be seen, so nobody has to know.
    preload: str = option(
        "auto",
        one_of("preload", PRELOADS),
        _WHO,
        "auto|on|off",
        "import the application once, in a template, and fork the workers from it; auto: if what it did at its import "
        "allows that; in a program that runs a master itself: off",
    )
    app_dir: str | None = option(
        None, parse_text, _WHO, "DIR", "where to import the application from", shown="the working directory"
    )
    env_file: str | None = option(
        None, parse_text, _WHO, "FILE", "more environment for the workers, as NAME=VALUE lines; read again at a reload"
    )
    chdir: str | None = option(None, parse_text, _WHO, "DIR", "change to this directory before anything else")

    policy: str | Callable[..., Any] = option(  # noqa: RUF009  # it sees a dataclass in the union
        "least-loaded",
        parse_policy,
        _HOW,
        "POLICY",
        "least-loaded, round-robin, random-two, ip-hash, or module:callable of your own, "
        "called with (candidates, peer)",
    )
    # 8: a trio worker takes batches of up to 8, so it is never idle for want of one; and no more than 8 wait behind
    # a blocked one for the few milliseconds until they are recalled.
    window: int = option(8, from_to(1, MAX_WINDOW), _HOW, "N", "connections that may wait in a worker's letterbox")
    recall_after: float = option(
        0.003,
        positive_duration,
        _HOW,
        "TIME",
        "take connections back from a worker that has taken none for so long, while others are idle",
        shown="3ms",
    )
    # The descriptor limit is the real bound, and a worker minds it by itself; this one keeps a fleet without such a
    # limit from growing for ever.
    worker_connections: int = option(
        10_000,
        from_to(1, 10_000_000),
        _HOW,
        "N",
        "open connections of one worker; when all have so many, new ones wait in the backlog",
    )

    root_path: str = option(
        "", parse_root_path, _HTTP, "PATH", "the path under which a proxy serves the application, for ASGI and WSGI"
    )
    proxy_headers: bool = option(
        True,
        parse_switch,
        _HTTP,
        "",
        "take the client's address and scheme from X-Forwarded-For and -Proto, where they come from a trusted proxy",
    )
    forwarded_allow_ips: str = option(
        TRUSTED_PROXIES,
        parse_proxies,
        _HTTP,
        "ADDRESSES",
        "addresses or networks of trusted proxies, separated by commas; *: all",
        shown=f"$FORWARDED_ALLOW_IPS, else {TRUSTED_PROXIES}",
    )
    # uvicorn's.  It should be longer than what a proxy in front keeps its own connections, or requests meet the close.
    keep_alive: float = option(
        5.0, parse_duration, _HTTP, "TIME", "close a connection on which no request has come for so long after the last"
    )
    # Threads wait for a database while others work; beyond a few the interpreter's lock makes them wait for each other.
    # waitress has 4, a2wsgi 10.
    threads: int = option(8, from_to(1, 1000), _HTTP, "N", "requests that a worker has in progress at once, for WSGI")
    # Off: uvicorn's parser has no such limits, and a proxy in front mostly has its own.
    limit_request_line: int = option(
        0, from_to(0, MAX_HEAD), _HTTP, "BYTES", "refuse a request whose first line is longer (414); 0: no limit"
    )
    limit_request_fields: int = option(
        0, from_to(0, 32_768), _HTTP, "N", "refuse a request with more header fields (431); 0: no limit"
    )
    limit_request_field_size: int = option(
        0,
        from_to(0, MAX_HEAD),
        _HTTP,
        "BYTES",
        "refuse a request with a longer header field (431); 0: no limit; with all three, what a request can hold in "
        "memory before its head is whole is bounded too",
        flags=("--limit-request-field_size",),
    )
    lifespan: str = option(
        "auto", one_of("lifespan", LIFESPANS), _HTTP, "auto|on|off", "tell an ASGI application of its start and end"
    )
    # Off: a line costs a write in the worker and a read in the master, and a proxy in front mostly keeps one already.
    access_log: bool = option(False, parse_switch, _HTTP, "", "print a line for each request")

    certfile: str | None = option(
        None,
        parse_text,
        _TLS,
        "FILE",
        "speak TLS with this certificate and those between it and the root, in PEM; read again at a reload",
        flags=("--ssl-certfile",),
    )
    keyfile: str | None = option(
        None, parse_text, _TLS, "FILE", "its private key, if it is not in the same file", flags=("--ssl-keyfile",)
    )
    cert_reqs: str = option(
        "none",
        parse_cert_reqs,
        _TLS,
        "WORD",
        "whether clients must show a certificate: none, optional or required",
        flags=("--ssl-cert-reqs",),
    )
    ca_certs: str | None = option(
        None, parse_text, _TLS, "FILE", "who may have signed a client's certificate, in PEM", flags=("--ssl-ca-certs",)
    )
    ciphers: str | None = option(
        None,
        parse_text,
        _TLS,
        "LIST",
        "what is allowed in TLS 1.2, as OpenSSL writes it; TLS 1.3 has only good ones",
        flags=("--ssl-ciphers",),
        shown="OpenSSL's",
    )

    proxy_protocol: str = option(
        "off",
        one_of("version of the PROXY protocol", tuple(MODES)),
        _PROXY,
        "off|v1|v2|auto",
        "each connection must begin with a header of the PROXY protocol, which names the client",
    )
    proxy_allow_from: str = option(
        TRUSTED_PROXIES,
        parse_proxies,
        _PROXY,
        "ADDRESSES",
        "addresses or networks that may send one, separated by commas; others are closed; *: all; a unix socket may",
    )

    ready_timeout: float = option(
        30.0, positive_duration, _PATIENCE, "TIME", "a worker must be ready by then, or it counts as failed"
    )
    # With --reload: most requests are done in a second, and a long poll or a websocket holds up neither the next reload
    # nor Ctrl-C for longer.
    graceful_timeout: float = option(
        _developing(1.0, 30.0),
        parse_duration,
        _PATIENCE,
        "TIME",
        "what a stopping worker has to finish its connections; with --reload 1s",
        shown="30s",
    )
    hang_timeout: float = option(
        30.0,
        parse_duration,
        _PATIENCE,
        "TIME",
        "a worker whose loop has not reported for so long is killed and replaced, its stacks in the log; 0: never",
    )
    heartbeat: float = option(
        0.5, positive_duration, _PATIENCE, "TIME", "a worker reports at least so often", shown="500ms"
    )

    # The whole generation at once: then it is judged once, in the time of one probation and one soak, and until then
    # the old one is untouched, so that a way back costs no client anything and needs nothing to be started.  Less of it
    # can go back too where there are templates, but takes as many times longer as it has batches, and what it saves is
    # little by then: a forked worker has a quarter of the memory of another.  (Kubernetes' 25 % saves whole machines.)
    # Without templates it needs the memory of twice the fleet for some seconds; lean machines say 1.
    surge: float = option(
        1.0,
        parse_surge,
        _RELOAD,
        "N|P%",
        "how many more workers than usual may live during a reload; with less than 100% it goes in batches, and only "
        "with templates (--preload) is there a way back from the second one",
        shown="100%",
    )
    probation: float = option(
        _developing(0.0, 2.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "what new workers have to stand in a reload without traffic; with --reload 0",
        shown="2s",
    )
    soak: float = option(
        _developing(0.0, 2.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "and then with their share of it, before the old ones go; with --reload 0",
        shown="2s",
    )
    # Most bad releases are noticed in minutes.  It costs the memory of one process, little of which is its own.  A
    # developer's way back is his editor's.
    rollback_window: float = option(
        _developing(0.0, 600.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "keep the code of the previous generation in memory for so long after a reload, for `rrmaster rollback`; 0: "
        "not at all; with --reload 0",
        shown="10m",
    )
    reload_timeout: float = option(600.0, positive_duration, _RELOAD, "TIME", "for a whole reload")
    probe: str | None = option(
        None,
        parse_probe,
        _RELOAD,
        "PROBE",
        "tcp, http:/path or module:callable: put to each worker before it serves, and then on; who fails is replaced",
    )
    probe_interval: float = option(10.0, positive_duration, _RELOAD, "TIME", "between two probes of a worker")
    probe_timeout: float = option(2.0, positive_duration, _RELOAD, "TIME", "for its answer")
    probe_failures: int = option(3, from_to(1, 1000), _RELOAD, "N", "failures in a row that make a worker unwell")

    probe_successes: int = option(
        1, from_to(1, 1000), _RELOAD, "N", "successes in a row before a new worker counts as well"
    )

    max_requests: int = option(
        0,
        from_to(0, 2**31),
        _RENEW,
        "N",
        "replace a worker that has served so many requests (of a stream handler: connections), 10 % more or less; "
        "0: never",
    )
    max_age: float = option(
        0.0, parse_duration, _RENEW, "TIME", "replace a worker that has served for so long, 10 % more or less; 0: never"
    )
    max_memory: int = option(
        0, parse_size, _RENEW, "SIZE", "replace a worker whose resident memory stays above this; 0: never"
    )
    # Kubernetes' names and numbers, where it has them; see `autoscale`.
    target_busy: float = option(
        0.7,
        parse_share,
        _RENEW,
        "P%",
        "with --workers LEAST:MOST, the share of workers that should be busy",
        shown="70%",
    )
    scale_up_window: float = option(
        3.0, parse_duration, _RENEW, "TIME", "more workers only if so many were wanted for so long"
    )
    scale_down_window: float = option(300.0, parse_duration, _RENEW, "TIME", "and fewer likewise")

    user: str | None = option(None, parse_text, _PROCESS, "NAME|UID", "become this user once the addresses are bound")
    group: str | None = option(None, parse_text, _PROCESS, "NAME|GID", "and this group")
    umask: int | None = option(None, parse_umask, _PROCESS, "MODE", "file mode creation mask, in octal")
    pid: str | None = option(None, parse_text, _PROCESS, "FILE", "write the master's process id there")
    name: str | None = option(
        None,
        parse_own_name,
        _PROCESS,
        "NAME",
        "what `rrmaster status` and the other verbs know this master by",
        shown="default",
    )
    control: str | None = option(
        None,
        parse_text,
        _PROCESS,
        "PATH",
        "the unix socket through which they reach it",
        shown="NAME.sock in $XDG_RUNTIME_DIR/rrmaster, or see docs/control.md",
    )

    log_level: str = option("info", parse_level, _OTHER, "LEVEL", "debug, info, warning or error")
    log_format: str = option(
        "text", parse_log_format, _OTHER, "FORMAT", "text for people, json (one object a line) for programs"
    )
    log_file: str | None = option(
        None,
        parse_text,
        _OTHER,
        "FILE",
        "log there; stderr gets the master's own warnings and errors; reopened on USR1",
        shown="stderr",
    )
    # 20 MB and 5: with the living one 120 MB, which any disk has, and days of an ordinary log.
    log_max_size: int = option(
        20_000_000,
        parse_size,
        _OTHER,
        "SIZE",
        "begin a new log file before this one grows larger; 0: never, something else rotates it",
        shown="20MB",
    )
    log_keep: int = option(
        5, from_to(0, 10_000), _OTHER, "N", "how many old log files to keep, FILE.1 the youngest; 0: none"
    )

    def __attrs_post_init__(self) -> None:
        complaint = consistency.complaint(self, _OF_APPLICATIONS)
        if complaint:
            raise SettingsError(complaint)

    @property
    def policy_name(self) -> str:
        """The policy, for people."""
        return self.policy if isinstance(self.policy, str) else getattr(self.policy, "__qualname__", repr(self.policy))

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The addresses, parsed."""
        return tuple(parse_bind(text) for text in self.bind)


_OF_APPLICATIONS = {
    f.name: f.default
    for f in attrs.fields(Settings)
    if "option" in f.metadata
    and (
        f.metadata["option"].group in (_HTTP, _TLS, _PROXY) or f.name in ("interface", "runtime", "factory", "preload")
    )
}
"""The options that say how an application is to be served, with their defaults: a program decides that itself."""


def options() -> dict[str, Option]:
    """Every option by the name of its field, in the order of the help."""
    return {f.name: f.metadata["option"] for f in attrs.fields(Settings) if "option" in f.metadata}
