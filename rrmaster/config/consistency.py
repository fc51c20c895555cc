"""Do these settings fit together?

An option that would do nothing is a mistake, and with TLS a dangerous one: it is refused, and not ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..protocol.launch import is_program


def complaint(settings: Any, of_applications: Mapping[str, Any]) -> str:
    """What does not fit in these `Settings`, or nothing.

    `of_applications` are the options, with their defaults, that only mean something for an application.
    """
    return _of_what_is_served(settings, of_applications) or _of_patience(settings) or _of_tls(settings)


def _of_what_is_served(settings: Any, of_applications: Mapping[str, Any]) -> str:
    if not is_program(settings.application):
        if settings.arguments:
            return f"arguments: {settings.application} is no program, and takes none"
        return "" if settings.bind else "bind: there is no address"
    for name, default in of_applications.items():
        if getattr(settings, name) != default:
            return (
                f"{name}: {settings.application} is a program, which decides that itself; this is an option for "
                "applications, module:attribute"
            )
    return ""


def _of_patience(settings: Any) -> str:
    if settings.hang_timeout and settings.hang_timeout < 2 * settings.heartbeat:
        return (
            f"a hang timeout of {settings.hang_timeout:g} s would kill workers that report every "
            f"{settings.heartbeat:g} s; make it at least twice the heartbeat"
        )
    return ""


def _of_tls(settings: Any) -> str:
    if settings.certfile is None:
        for name in ("keyfile", "ca_certs", "ciphers", "cert_reqs"):
            if getattr(settings, name) not in (None, "none"):
                flag = "--" + name.replace("_", "-")
                return f"{flag} needs --certfile: without a certificate no TLS is spoken"
    if settings.cert_reqs != "none" and settings.ca_certs is None:
        return f"--cert-reqs {settings.cert_reqs} needs --ca-certs: who may have signed them?"
    if settings.cert_reqs == "none" and settings.ca_certs is not None:
        return (
            "--ca-certs is for the certificates of clients: say --cert-reqs optional or required, too; what stands "
            "between your own certificate and the root belongs into --certfile"
        )
    return ""
