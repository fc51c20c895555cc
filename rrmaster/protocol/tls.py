"""With which certificate do we speak TLS, and can it be loaded?

Handshakes are the workers': each makes the context for itself when it starts, so new files are read at a reload.  The
master makes one too, when it starts and before a reload, and throws it away: what cannot be loaded is then refused
before anything else happens.  Whoever calls must be the user that the workers will be.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Sequence
from typing import NoReturn, Protocol

HTTP_1 = ("http/1.1",)
HTTP_2 = ("h2", "http/1.1")
"""What is offered in ALPN (RFC 7301), the preferred first."""

_REQUIRED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----")


class CannotSpeakTLS(Exception):
    """A certificate cannot be used.  The message names the option, and what to do."""


class _Encrypted(Exception):
    """OpenSSL has asked for the password of the key."""


class Chosen(Protocol):
    """Settings, or a launch."""

    @property
    def certfile(self) -> str | None:
        """The certificate and those between it and the root, in PEM."""

    @property
    def keyfile(self) -> str | None:
        """Its key; None: it stands in `certfile`."""

    @property
    def ca_certs(self) -> str | None:
        """Whose certificates are taken from clients."""

    @property
    def cert_reqs(self) -> str:
        """Whether clients must have one."""

    @property
    def ciphers(self) -> str | None:
        """OpenSSL's list, for TLS 1.2."""


def context(chosen: Chosen, protocols: Sequence[str] = ()) -> ssl.SSLContext | None:
    """How to speak TLS, offering these protocols in ALPN; None: not at all.  Raises CannotSpeakTLS."""
    if chosen.certfile is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # 1.0 and 1.1 are forbidden since RFC 8996 (2021).  Said here, for a system's openssl.cnf may say less.
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client of TLS 1.2 that renegotiates for ever would cost a worker a handshake each time.
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_chain(made, chosen.certfile, chosen.keyfile)
    if chosen.ca_certs is not None:
        _load_authorities(made, chosen.ca_certs)
    made.verify_mode = _REQUIRED[chosen.cert_reqs]
    if chosen.ciphers is not None:
        try:
            made.set_ciphers(chosen.ciphers)
        except ssl.SSLError:
            raise CannotSpeakTLS(f"--ciphers: this OpenSSL has none of {chosen.ciphers!r}; try ECDHE+AESGCM") from None
    if protocols:
        made.set_alpn_protocols(protocols)
    return made


def _load_chain(made: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    # OpenSSL's own words are the same for a file that is not there and one that is no PEM: so each is looked at first.
    if _CERTIFICATE.search(_read("--certfile", certfile)) is None:
        raise CannotSpeakTLS(f"--certfile: {certfile} holds no certificate in PEM")
    option, named = ("--certfile", certfile) if keyfile is None else ("--keyfile", keyfile)
    if _KEY.search(_read(option, named)) is None:
        hint = "; name the file that does with --keyfile" if keyfile is None else " in PEM"
        raise CannotSpeakTLS(f"{option}: {named} holds no private key{hint}")
    try:
        made.load_cert_chain(certfile, keyfile, password=_no_password)
    except _Encrypted:
        raise CannotSpeakTLS(
            f"{option}: the key in {named} is encrypted, and nobody is there to type its password at a restart; "
            f"decrypt it with `openssl pkey -in {named} -out FILE`, and guard FILE by its permissions"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CannotSpeakTLS(f"{option}: the key in {named} is not that of the certificate in {certfile}") from None
        raise CannotSpeakTLS(f"--certfile: OpenSSL cannot use {certfile} with {named}: {words(error)}") from None


def _load_authorities(made: ssl.SSLContext, path: str) -> None:
    if _CERTIFICATE.search(_read("--ca-certs", path)) is None:
        raise CannotSpeakTLS(f"--ca-certs: {path} holds no certificate in PEM")
    try:
        made.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CannotSpeakTLS(f"--ca-certs: OpenSSL cannot use {path}: {words(error)}") from None


def _read(option: str, path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # A pipe would be empty for the second worker, and one that nobody writes to would hold the master.
            raise CannotSpeakTLS(f"{option}: {path} is no regular file, and each worker must be able to read it")
        with open(path, "rb") as file:
            return file.read()
    except PermissionError as error:
        raise CannotSpeakTLS(
            f"{option}: {path} cannot be read by the user that the workers are (uid {os.geteuid()}, see --user): "
            f"{error.strerror}; give that user's group the right to, with chgrp and chmod 640"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotSpeakTLS(f"{option}: {path!r} cannot be read: {why}") from None


def _no_password() -> NoReturn:
    raise _Encrypted


def words(error: ssl.SSLError) -> str:
    """OpenSSL's reason in lower case, without its numbers."""
    return (error.reason or str(error)).replace("_", " ").lower()
