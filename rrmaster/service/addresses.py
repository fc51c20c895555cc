"""In which form is a listening address shown at the start, so that a terminal can open it?

A terminal turns a URL into a link.  An application whose interface is `auto` is shown with ``http``: whether it speaks
HTTP is decided in the workers, after this line, and most applications do.
"""

from __future__ import annotations

from ..config.settings import Settings
from ..protocol.launch import is_program

ANY_ADDRESS = {"0.0.0.0": ("127.0.0.1", "all IPv4 addresses"), "[::]": ("localhost", "all addresses")}
"""Hosts that only a server can bind, each with a host that a browser on this machine can open, and its meaning."""


def shown_address(address: str, settings: Settings) -> str:
    """A bound address, as a listener names it (``HOST:PORT`` or ``unix:PATH``), in the form for the start line.

    The address of a program stays as it is: only the program knows its protocol.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or address.startswith("unix:") or is_program(settings.application):
        return address
    openable, meaning = ANY_ADDRESS.get(host, (host, ""))
    url = f"{_scheme(settings)}://{openable}:{port}"
    return f"{url} ({meaning})" if meaning else url


def _scheme(settings: Settings) -> str:
    if settings.interface == "stream":
        return "tls" if settings.certfile is not None else "tcp"
    return "https" if settings.certfile is not None else "http"
