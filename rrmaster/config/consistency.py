"""Do these settings fit together?

An option that would have no effect is a mistake, and with TLS a dangerous one: it is refused, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..protocol.launch import is_program
from .addresses import Bind, Tcp, Unix, is_remote, parse_bind


def complaints(settings: Any, of_applications: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit in these `Settings`, with what to do about it.

    `of_applications` are the options that only apply to an application, with their defaults.
    """
    yield from _of_what_is_served(settings, of_applications)
    yield from _of_addresses(settings.binds)
    yield from _of_deferral(settings)
    if settings.listen_when != "start" and not any(isinstance(bind, Tcp) for bind in settings.binds):
        yield "--listen-when is for TCP addresses that rrmaster opens, and --bind names none; leave it out"
    yield from _of_timeouts(settings)
    yield from _of_tls(settings)
    yield from _of_admin(settings)
    if settings.access_log_format != "auto" and not settings.access_log:
        yield "--access-log-format needs --access-log: without it nothing is logged of a request"
    if settings.master_user is not None and settings.user is None:
        yield "--master-user needs --user: the user of the workers, another one than the master's"


def _of_what_is_served(settings: Any, of_applications: Mapping[str, Any]) -> Iterator[str]:
    if not is_program(settings.application):
        if settings.arguments:
            yield f"arguments: {settings.application} is an application, and only a program takes arguments"
        if not settings.bind:
            yield "bind: there is no address; write at least one, such as 127.0.0.1:8000"
        return
    for name, default in of_applications.items():
        if getattr(settings, name) != default:
            yield (
                f"{name}: {settings.application} is a program, which decides that itself; this is an option for "
                "applications, module:attribute"
            )


def _of_addresses(binds: Sequence[Bind]) -> Iterator[str]:
    """An address that another one includes cannot be opened beside it, and the kernel says only that it is in use."""
    tcp = [bind for bind in binds if isinstance(bind, Tcp) and bind.port]
    for wide in tcp:
        for other in tcp:
            if other is not wide and other.port == wide.port and _includes(wide.host, other.host):
                yield (
                    f"bind: {_shown(wide)} already includes {_shown(other)}; leave the latter out, or write the single "
                    "addresses"
                )
                return  # the same the other way round, or the next of many


def _of_deferral(settings: Any) -> Iterator[str]:
    if settings.defer_accept == "on" and settings.binds:
        if all(isinstance(bind, Unix) for bind in settings.binds):
            yield "--defer-accept on is for TCP, and all addresses are unix sockets, which do not have it; leave it out"
        elif not any(isinstance(bind, Tcp) for bind in settings.binds):
            yield (
                "--defer-accept on is for addresses that are opened here; a socket that was passed keeps what it came "
                "with: write DeferAcceptSec=1 into the socket unit"
            )


def _includes(wide: str, host: str) -> bool:
    if wide in ("", "*", "::"):
        return True
    return wide == "0.0.0.0" and (host == "localhost" or re.fullmatch(r"[\d.]+", host) is not None)


def _shown(bind: Tcp) -> str:
    return f"[{bind.host}]:{bind.port}" if ":" in bind.host else f"{bind.host}:{bind.port}"


def _of_timeouts(settings: Any) -> Iterator[str]:
    if settings.hang_timeout and settings.hang_timeout < 2 * settings.heartbeat:
        yield (
            f"a hang timeout of {settings.hang_timeout:g} s would kill workers that report every "
            f"{settings.heartbeat:g} s; make it at least twice the heartbeat"
        )


def _of_tls(settings: Any) -> Iterator[str]:
    if settings.certfile is not None and settings.park_after not in (None, "auto"):
        yield (
            "--park-after is for connections without TLS: with --certfile the state of TLS is in the worker, and only "
            "that worker can go on with it; let a proxy end TLS, or leave --park-after out"
        )
    if settings.certfile is None:
        for name in ("keyfile", "ca_certs", "ciphers", "cert_reqs"):
            if getattr(settings, name) not in (None, "none"):
                flag = "--" + name.replace("_", "-")
                yield f"{flag} needs --certfile: without a certificate no TLS is spoken"
    elif settings.cert_reqs != "none" and settings.ca_certs is None:
        yield f"--cert-reqs {settings.cert_reqs} needs --ca-certs, the authorities that may sign them"
    elif settings.cert_reqs == "none" and settings.ca_certs is not None:
        yield (
            "--ca-certs is for the certificates of clients: add --cert-reqs optional or required; the certificates "
            "between your own and the root belong in --certfile"
        )


def _of_admin(settings: Any) -> Iterator[str]:
    if settings.admin is None:
        unasked = {"admin_allow_remote": False, "ready_when": "any", "admin_actions": False, "admin_token_file": None}
        for name, default in unasked.items():
            if getattr(settings, name) != default:
                yield f"--{name.replace('_', '-')} needs --admin: without an address nothing asks for it"
        return
    if settings.admin_token_file is not None and not settings.admin_actions:
        yield "--admin-token-file needs --admin-actions: without it nothing can be done with the token"
    if is_remote(parse_bind(settings.admin)) and not settings.admin_allow_remote:
        yield (
            f"--admin {settings.admin} is reached from other machines, without a password; write "
            f"127.0.0.1:{settings.admin.rpartition(':')[2]}, or add --admin-allow-remote"
        )
