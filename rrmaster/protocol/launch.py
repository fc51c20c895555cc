"""What does a worker receive at its start, and how is it encoded?

The master encodes a `Launch` as JSON into the environment variable ``RRMASTER_LAUNCH``, and a worker of this package
decodes it.  A worker in another language does not need it: the line is enough (docs/protocol.md).

A field with the name of a setting has the setting's value, so a new option reaches the workers when it is named here.
Its default is declared in `config.settings` alone: no field has a default here.  Master and worker are always the same
version of this package, because a worker is started from the directory that the master was started from.
"""

from __future__ import annotations

import json
from typing import Literal

import attrs
from attrs import frozen

INTERFACES = ("auto", "stream", "asgi", "wsgi")
"""What an application can be; auto: decided by its parameters."""

RUNTIMES = ("auto", "trio", "asyncio", "uvloop")
"""What the application runs on; auto: decided by its interface."""

PRELOADS = ("auto", "on", "off")
"""Whether workers are forked from a template that has imported the application; auto: if that is safe."""

KILL_MODES = ("tree", "group")
"""What ends with a worker: all that descends from it, or its process group alone."""

LIFESPANS = ("auto", "on", "off")
"""Whether an ASGI application's lifespan runs; the words are uvicorn's."""

HEADER_MAPS = ("drop", "refuse", "dangerous")
"""What becomes of a WSGI request's header fields with underscores; the words are gunicorn's."""

CERT_REQS = ("none", "optional", "required")
"""Whether clients must show a certificate: gunicorn's 0, 1 and 2, the values of the module ssl."""

TRUSTED_PROXIES = "127.0.0.1,::1"
"""The addresses of a proxy on the same machine, whose headers are trusted by default as in uvicorn and gunicorn."""


CONNECTIONS = 10_000
"""`--worker-connections auto`, where connections are no requests.  The descriptor limit is the real bound, and a worker
minds it by itself; this one keeps a fleet without such a limit from growing for ever."""


PARK_AFTER_S = 1.0
"""Seconds of `--park-after auto`, where connections are parked by default: those that are hot stay where they are."""


@frozen(kw_only=True)
class Launch:
    """What to serve, and how.  Times are in seconds; `Settings` explains each field of the same name."""

    application: str
    """``module:attribute``, or a program: ``server.py`` or ``-m package``."""
    arguments: tuple[str, ...] = attrs.field(converter=tuple)
    """The program's own arguments."""
    app_dir: str
    """The directory to import it from; empty: only from the program's own directory."""
    chdir: str
    """The working directory."""
    probe: str | None
    """Only a template uses this and the next: see `worker.preload.trial.run`."""
    ready_timeout: float
    heartbeat: float
    graceful_timeout: float
    kill_mode: str
    recall_after: float
    """Only a program uses it: see `worker.programs.ports`."""
    interface: str
    runtime: str
    factory: bool
    root_path: str
    proxy_headers: bool
    forwarded_allow_ips: str
    keep_alive: float
    park_after: float | Literal["auto"] | None
    """None: idle connections are not parked.  auto: `parks_after` decides."""
    header_timeout: float
    body_timeout: float
    send_timeout: float
    request_timeout: float
    worker_connections: int | None
    """None: `CONNECTIONS`; where WSGI is served, and connections are parked, as many as it has threads."""
    threads: int
    header_map: str
    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int
    lifespan: str
    access_log: str
    """Empty: there is none.  on: into the log.  Else a dash or a path, both of which are the master's concern."""
    access_log_format: str
    log_format: str
    certfile: str | None
    """None: no TLS."""
    keyfile: str | None
    ca_certs: str | None
    cert_reqs: str
    ciphers: str | None
    proxy_protocol: str
    proxy_allow_from: str

    @property
    def asked_to_park_after(self) -> float | None:
        """`--park-after`, if the user has asked for a time; None: otherwise."""
        return None if self.park_after == "auto" else self.park_after

    @property
    def parks_after(self) -> float | None:
        """`--park-after`, where HTTP is served: connections are parked by default; None: they stay."""
        if self.park_after != "auto":
            return self.park_after
        return PARK_AFTER_S if self.certfile is None else None

    @property
    def places(self) -> int:
        """Connections that the worker has at once."""
        return self.worker_connections or CONNECTIONS

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: str) -> Launch:
        """The launch that `encode` has encoded."""
        return cls(**json.loads(text))


MODULE = "-m "
"""The beginning of a program's name that is a module, as on Python's command line."""


def is_program(application: str) -> bool:
    """Whether it is a program, which opens its own listeners, and not ``module:attribute``."""
    return application.startswith(MODULE) or (application.endswith(".py") and ":" not in application)


FIELDS = tuple(field.name for field in attrs.fields(Launch))
"""The names of all fields."""
