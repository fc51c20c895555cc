"""With which certificate is TLS spoken, and can it be loaded?

Workers do the handshakes.  Each makes a context for itself when it starts, so a reload reads new files.  The master
makes one too, when it starts and before a reload, and throws it away: so it refuses files that cannot be loaded before
anything else happens.  The process that calls must run as the user that the workers will run as, or the check means
nothing.
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
"""The protocols offered in ALPN (RFC 7301), the preferred one first."""

_REQUIRED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

_CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----")


class CannotSpeakTLS(Exception):
    """A certificate cannot be used.  The message names the option at fault and says what to do."""


class _Encrypted(Exception):
    """OpenSSL has asked for the password of the key."""


class TLSOptions(Protocol):
    """The options of TLS: of `Settings` in the master, of `Launch` in a worker."""

    @property
    def certfile(self) -> str | None:
        """The path of the certificate and those between it and the root, in PEM; None: no TLS."""

    @property
    def keyfile(self) -> str | None:
        """The path of the certificate's key; None: `certfile` holds it."""

    @property
    def ca_certs(self) -> str | None:
        """The path of the authorities whose client certificates are accepted."""

    @property
    def cert_reqs(self) -> str:
        """Whether clients must show a certificate: a word of `launch.CERT_REQS`."""

    @property
    def ciphers(self) -> str | None:
        """OpenSSL's list of ciphers for TLS 1.2."""


def context(options: TLSOptions, protocols: Sequence[str] = ()) -> ssl.SSLContext | None:
    """A server's context, which offers these protocols in ALPN; None without a certificate.  Raises CannotSpeakTLS."""
    if options.certfile is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # 1.0 and 1.1 are forbidden since RFC 8996 (2021).  Set here, because a system's openssl.cnf may allow them.
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client of TLS 1.2 that renegotiates for ever would cost a worker a handshake each time.
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_chain(made, options.certfile, options.keyfile)
    if options.ca_certs is not None:
        _load_authorities(made, options.ca_certs)
    made.verify_mode = _REQUIRED[options.cert_reqs]
    if options.ciphers is not None:
        try:
            made.set_ciphers(options.ciphers)
        except ssl.SSLError:
            raise CannotSpeakTLS(f"--ciphers: this OpenSSL has none of {options.ciphers!r}; try ECDHE+AESGCM") from None
    if protocols:
        made.set_alpn_protocols(protocols)
    return made


def _load_chain(made: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    # OpenSSL has the same words for a file that is missing and one that is no PEM: so each is read here first.
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
            f"{option}: the key in {named} is encrypted, and a restart has no one to type its password; "
            f"decrypt it with `openssl pkey -in {named} -out FILE`, and guard FILE by its permissions"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CannotSpeakTLS(f"{option}: the key in {named} is not that of the certificate in {certfile}") from None
        raise CannotSpeakTLS(
            f"--certfile: OpenSSL cannot use {certfile} with {named}: {openssl_reason(error)}"
        ) from None


def _load_authorities(made: ssl.SSLContext, path: str) -> None:
    if _CERTIFICATE.search(_read("--ca-certs", path)) is None:
        raise CannotSpeakTLS(f"--ca-certs: {path} holds no certificate in PEM")
    try:
        made.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CannotSpeakTLS(f"--ca-certs: OpenSSL cannot use {path}: {openssl_reason(error)}") from None


def _read(option: str, path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # A pipe would be empty for the second worker, and one without a writer would block the master.
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


def openssl_reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in lower case, without its numbers."""
    return (error.reason or str(error)).replace("_", " ").lower()
