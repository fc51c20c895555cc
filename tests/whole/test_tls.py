"""TLS in the workers: a reload replaces certificates, and a failed handshake harms no other client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from attrs import define
from websockets.sync.client import connect as connect_websocket

from tests.whole.harness import BRIEF, PATIENCE, Running, closed, dial, running
from tests.whole.test_start import rrmaster

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SERVERS = [("app", "uvloop"), ("app", "asyncio"), ("app", "trio"), ("stream", "trio"), ("streams", "asyncio")]


@define
class Files:
    """An authority, and the certificates that it has signed."""

    here: Path
    authority: trustme.CA

    def renew(self, name: str = "localhost") -> None:
        """A new certificate for this name."""
        issued = self.authority.issue_cert(name, "localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.here / "key.pem")
        self.here.joinpath("cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    @property
    def options(self) -> tuple[str, ...]:
        return ("--certfile", str(self.here / "cert.pem"), "--keyfile", str(self.here / "key.pem"))

    def client(self, **certificate: str) -> ssl.SSLContext:
        """The TLS context of a client that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate:
            self.authority.issue_cert(certificate["named"]).configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path, trustme.CA())
    made.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made.renew()
    return made


async def secured(stream: trio.abc.Stream, context: ssl.SSLContext) -> trio.SSLStream:
    secure = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
    with trio.fail_after(PATIENCE):
        await secure.do_handshake()
    return secure


async def answer(stream: trio.abc.Stream, request: bytes = REQUEST) -> list:
    """What the application has seen of a request."""
    with trio.fail_after(PATIENCE):
        await stream.send_all(request)
        head, body = await _read(stream)
    assert head.startswith(b"HTTP/1.1 200 "), head
    return json.loads(body)


async def _read(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    data = b""
    while True:
        head, ended, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), None
        )
        if ended and length is not None and len(body) >= length:
            return head, body
        more = await stream.receive_some()
        assert more, f"ended after {data!r}"
        data += more


async def common_name(master: Running, files: Files) -> str:
    secure = await secured(await dial(master), files.client())
    certificate = secure.getpeercert()
    await trio.aclose_forcefully(secure)
    return certificate["subjectAltName"][0][1]


@pytest.mark.parametrize(("application", "runtime"), SERVERS)
async def test_every_server_speaks_tls_and_survives_bad_clients(files, application, runtime):
    """One fleet for an answer, clients that make no proper handshake, and a drain that begins in a handshake.

    The fleet becomes ready only if the master's own probes are answered without TLS.
    """
    probe = ("--probe", "http:/", "--graceful-timeout", "8s")
    options = (*files.options, *probe, "--runtime", runtime)
    async with running(f"secure:{application}", *options, workers=1) as master:
        before = master.workers
        stream = await dial(master)
        here = list(stream.socket.getsockname())
        scheme, client, _ = await answer(await secured(stream, files.client()))
        assert (scheme, client) == ("https" if application == "app" else "stream", here)
        await _misbehave(master, files)
        await master.said(r"a connection from 127.0.0.1:\d+ was closed: no TLS handshake: ")
        virgins = [await dial(master) for _ in range(3)]
        half = await _half_a_hello(master, files)
        late = await secured(await dial(master), files.client())
        assert (await answer(await secured(await dial(master), files.client())))[0] == scheme
        assert master.workers == before
        master.signal(signal.SIGTERM)
        await master.said("serving -> draining")
        for stream in virgins:
            assert (await answer(await secured(stream, files.client())))[0] == scheme
        assert (await answer(late))[0] == scheme
        await trio.aclose_forcefully(half)
        assert await master.ended() == 0
        assert "Traceback" not in master.text
        assert master.text.count("was closed: ") == 1


async def _misbehave(master: Running, files: Files) -> None:
    """What clients send to a port on the open network; each connection ends without an answer."""
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" + b"x" * 600,
        b"SSH-2.0-x\r\n",
        b"\0" * 5000,
    ):
        stream = await dial(master)
        await stream.send_all(garbage)
        assert not (await closed(stream)).startswith(b"HTTP"), garbage
    for leave in ("close", "reset"):
        half = await _half_a_hello(master, files)
        if leave == "reset":
            half.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await half.aclose()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(trio.BrokenResourceError):
        await secured(await dial(master), old)
    doubtful = await dial(master)
    with pytest.raises(trio.BrokenResourceError):
        await secured(doubtful, ssl.create_default_context())  # it does not trust the certificate
    await doubtful.aclose()


async def _half_a_hello(master: Running, files: Files) -> trio.SocketStream:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = files.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    stream = await dial(master)
    await stream.send_all(hello[: len(hello) // 2])
    return stream


async def test_a_reload_takes_new_certificates_and_refuses_bad_ones(files):
    files.renew("old.example")
    async with running("secure:app", *files.options, *BRIEF, workers=2) as master:
        assert await common_name(master, files) == "old.example"
        held = await secured(await dial(master), files.client())
        files.renew("new.example")
        good = (files.here / "key.pem").read_bytes()
        (files.here / "key.pem").write_bytes(good[:100])
        before = master.workers
        master.signal(signal.SIGHUP)
        await master.said(r"reload refused: --certfile: OpenSSL cannot use")
        assert await common_name(master, files) == "old.example"
        assert master.workers == before
        (files.here / "key.pem").write_bytes(good)
        master.signal(signal.SIGHUP)
        await master.said("committed")
        assert (await answer(held))[0] == "https"  # by the old worker, in its drain
        await master.said("draining -> gone", 2)
        assert await common_name(master, files) == "new.example"
        assert "Traceback" not in master.text


async def test_clients_may_have_to_show_a_certificate_on_any_listener(files, tmp_path):
    path = tmp_path / "s.sock"
    wanted = ("--ca-certs", str(files.here / "ca.pem"), "--cert-reqs", "2", "--bind", f"unix:{path}")
    async with running("secure:app", *files.options, *wanted, workers=1) as master:
        known = files.client(named="client.example")
        url = f"https://localhost:{master.port}/"
        async with httpx.AsyncClient(verify=known, timeout=PATIENCE) as client:
            assert (await client.get(url)).json()[0] == "https"
        transport = httpx.AsyncHTTPTransport(uds=str(path), verify=known)
        async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:
            assert (await client.get("https://localhost/")).json() == ["https", None, [str(path), None]]
        seen = await trio.to_thread.run_sync(_ask_websocket, master.port, known)
        assert json.loads(seen)[0] == "wss"
        stranger = await secured(await dial(master), files.client())  # TLS 1.3 reports it after the handshake
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            await answer(stranger)
        await master.said("was closed: no TLS handshake: peer did not return a certificate")
        assert await master.stop() == 0


def _ask_websocket(port: int, context: ssl.SSLContext) -> str:
    with connect_websocket(f"wss://localhost:{port}/", ssl=context, open_timeout=PATIENCE, proxy=None) as websocket:
        return str(websocket.recv(timeout=PATIENCE))


def test_a_certificate_that_cannot_be_loaded_is_one_line_and_status_2(files):
    certificate, key = files.here / "cert.pem", files.here / "key.pem"
    serve = ("secure:app", "--bind", "127.0.0.1:0")
    for arguments, said in (
        (("--certfile", "/nowhere.pem"), "--certfile: '/nowhere.pem' cannot be read: No such file or directory"),
        (("--ssl-keyfile", str(key)), "--keyfile needs --certfile"),
        (("--certfile", str(certificate), "--keyfile", str(files.here / "ca.pem")), "holds no private key"),
        (("--certfile", str(certificate), "--keyfile", str(key), "--cert-reqs", "required"), "needs --ca-certs"),
    ):
        ended = rrmaster(*serve, *arguments)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1
    checked = rrmaster("check", *serve, "--certfile", str(key))
    assert checked.returncode == 2, checked.stderr
    assert "key.pem holds no certificate in PEM" in checked.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_key_that_the_other_user_may_not_read_is_refused_with_words(files):
    # Other users cannot enter pytest's own directories, but must be able to read a certificate.
    certificate = Path(shutil.copy(files.here / "cert.pem", tempfile.mkdtemp()))
    certificate.parent.chmod(0o755)
    named = ("--certfile", str(certificate), "--keyfile", str(files.here / "key.pem"))
    ended = rrmaster("secure:app", "--bind", "127.0.0.1:0", "--user", "nobody", *named)
    shutil.rmtree(certificate.parent)
    assert ended.returncode == 2
    assert "key.pem cannot be read by the user that the workers are" in ended.stderr
    assert ended.stderr.count("\n") == 1
