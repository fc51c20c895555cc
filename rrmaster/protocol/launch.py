"""What a worker is told at its start, and how it is spelled.

The master encodes it into the environment variable ``RRMASTER_LAUNCH``, as JSON, and a worker of this package decodes
it.  A worker in another language needs none of it: the line is enough (docs/protocol.md).

A field that has the name of a setting has its value too, so an option reaches the workers by being named here.  No
field has a default: the settings declare it, once.  Master and worker are always the same version of this package: a
worker is started from the directory its master was.
"""

from __future__ import annotations

import json

import attrs
from attrs import frozen

INTERFACES = ("auto", "stream", "asgi", "wsgi")
"""What an application may be; auto: by its parameters."""

RUNTIMES = ("auto", "trio", "asyncio", "uvloop")
"""What its code runs on."""

PRELOADS = ("auto", "on", "off")
"""Whether workers are forked from a template that has imported the application; auto: where that is safe."""

LIFESPANS = ("auto", "on", "off")
"""Whether an ASGI application is told of its start and end; uvicorn's words."""

CERT_REQS = ("none", "optional", "required")
"""Whether clients must show a certificate; gunicorn's 0, 1 and 2, which are those of the module ssl."""

TRUSTED_PROXIES = "127.0.0.1,::1"
"""Whose X-Forwarded headers are believed: uvicorn's and gunicorn's default, a proxy on the same machine."""


@frozen(kw_only=True)
class Launch:
    """What to serve, and how to behave.  Times are in seconds."""

    application: str
    """``module:attribute``, or a program: ``server.py`` or ``-m package``."""
    arguments: tuple[str, ...] = attrs.field(converter=tuple)
    """The program's own."""
    app_dir: str
    """Where to import it from; empty: from nowhere else than a program's own directory."""
    chdir: str
    """The working directory."""
    heartbeat: float
    graceful_timeout: float
    recall_after: float
    """Only a program needs it: see `worker.programs.ports`."""
    interface: str
    runtime: str
    factory: bool
    root_path: str
    proxy_headers: bool
    forwarded_allow_ips: str
    keep_alive: float
    threads: int
    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int
    lifespan: str
    access_log: bool
    certfile: str | None
    """None: no TLS."""
    keyfile: str | None
    ca_certs: str | None
    cert_reqs: str
    ciphers: str | None
    proxy_protocol: str
    proxy_allow_from: str

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, text: str) -> Launch:
        """What `encode` has spelled."""
        return cls(**json.loads(text))


MODULE = "-m "
"""What the name of a program begins with that is a module, as on the command line of Python."""


def is_program(application: str) -> bool:
    """Whether it is a program, which opens its own addresses, and not ``module:attribute``."""
    return application.startswith(MODULE) or (application.endswith(".py") and ":" not in application)


FIELDS = tuple(field.name for field in attrs.fields(Launch))
"""The names of all fields."""
