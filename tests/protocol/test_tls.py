"""A certificate is loaded, or refused with the name of the option at fault and what to do."""

import os
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from rrmaster.protocol.launch import Launch
from rrmaster.protocol.tls import HTTP_2, CannotSpeakTLS, context
from tests.launches import a_launch


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys, good and bad."""
    here, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(here / "ca.pem")
    one.cert_chain_pems[0].write_to_path(here / "cert.pem")
    one.private_key_pem.write_to_path(here / "key.pem")
    one.private_key_and_cert_chain_pem.write_to_path(here / "both.pem")
    other.private_key_pem.write_to_path(here / "other.pem")
    key = load_pem_private_key(one.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (here / "locked.pem").write_bytes(locked)
    (here / "key.der").write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    (here / "empty.pem").write_bytes(b"")
    pem = one.cert_chain_pems[0].bytes()
    (here / "torn.pem").write_bytes(pem[: len(pem) // 2])
    # Its first byte: a change elsewhere may leave what some versions of OpenSSL take for a certificate.
    (here / "wrong.pem").write_bytes(pem.replace(b"\nMI", b"\nAA"))
    return here


def launch(files: Path, **chosen: str) -> Launch:
    words = {name: value for name, value in chosen.items() if name in ("cert_reqs", "ciphers")}
    paths = {name: str(files / value) for name, value in chosen.items() if name not in words}
    return a_launch(**words, **paths)


def test_without_a_certificate_there_is_no_tls():
    assert context(a_launch()) is None


@pytest.mark.parametrize("chosen", [{"certfile": "cert.pem", "keyfile": "key.pem"}, {"certfile": "both.pem"}])
def test_a_certificate_and_its_key_may_be_in_two_files_or_in_one(files, chosen):
    made = context(launch(files, **chosen))
    assert made is not None
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(("word", "mode"), [("optional", ssl.CERT_OPTIONAL), ("required", ssl.CERT_REQUIRED)])
def test_clients_may_have_to_show_a_certificate(files, word, mode):
    made = context(launch(files, certfile="both.pem", ca_certs="ca.pem", cert_reqs=word), HTTP_2)
    assert made is not None
    assert made.verify_mode == mode
    assert made.cert_store_stats()["x509_ca"] == 1


def test_ciphers_are_those_that_were_named(files):
    made = context(launch(files, certfile="both.pem", ciphers="ECDHE-RSA-AES128-GCM-SHA256"))
    assert made is not None
    assert [c["name"] for c in made.get_ciphers() if c["protocol"] != "TLSv1.3"] == ["ECDHE-RSA-AES128-GCM-SHA256"]


MISTAKES = [
    ({"certfile": "missing.pem"}, r"--certfile: '.*missing.pem' cannot be read: No such file"),
    ({"certfile": "."}, r"--certfile: .* is no regular file"),
    ({"certfile": "empty.pem"}, r"--certfile: .*empty.pem holds no certificate in PEM"),
    ({"certfile": "key.pem"}, r"--certfile: .*key.pem holds no certificate in PEM"),
    ({"certfile": "cert.pem"}, r"--certfile: .*cert.pem holds no private key; name the file that does with --keyfile"),
    ({"certfile": "cert.pem", "keyfile": "missing.pem"}, r"--keyfile: '.*missing.pem' cannot be read"),
    ({"certfile": "cert.pem", "keyfile": "cert.pem"}, r"--keyfile: .*cert.pem holds no private key in PEM"),
    ({"certfile": "cert.pem", "keyfile": "key.der"}, r"--keyfile: .*key.der holds no private key in PEM"),
    ({"certfile": "cert.pem", "keyfile": "other.pem"}, r"--keyfile: the key in .*other.pem is not that of"),
    ({"certfile": "cert.pem", "keyfile": "locked.pem"}, r"--keyfile: the key in .* is encrypted.*openssl pkey"),
    ({"certfile": "torn.pem", "keyfile": "key.pem"}, r"--certfile: OpenSSL cannot use .*torn.pem"),
    ({"certfile": "wrong.pem", "keyfile": "key.pem"}, r"--certfile: OpenSSL cannot use .*wrong.pem"),
    ({"certfile": "both.pem", "ca_certs": "missing.pem"}, r"--ca-certs: '.*missing.pem' cannot be read"),
    ({"certfile": "both.pem", "ca_certs": "key.pem"}, r"--ca-certs: .*key.pem holds no certificate"),
    ({"certfile": "both.pem", "ca_certs": "torn.pem"}, r"--ca-certs: OpenSSL cannot use"),
    ({"certfile": "both.pem", "ciphers": "ROT13"}, r"--ciphers: this OpenSSL has none of 'ROT13'"),
]


@pytest.mark.parametrize(("chosen", "said"), MISTAKES)
def test_a_mistake_names_the_option_and_the_file(files, chosen, said):
    with pytest.raises(CannotSpeakTLS, match=f"^{said}") as caught:
        context(launch(files, **chosen))
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_without_waiting_for_its_writer(files):
    os.mkfifo(files / "pipe")
    with pytest.raises(CannotSpeakTLS, match="no regular file"):
        context(launch(files, certfile="pipe"))


def test_a_file_that_this_user_may_not_read_is_named_with_the_user(files):
    if os.geteuid() == 0:
        pytest.skip("root may read everything; with --user it is tested with a fleet")
    (files / "hidden.pem").write_bytes(b"")
    (files / "hidden.pem").chmod(0)
    with pytest.raises(CannotSpeakTLS, match=r"--certfile: .*cannot be read by the user that the workers are"):
        context(launch(files, certfile="hidden.pem"))
