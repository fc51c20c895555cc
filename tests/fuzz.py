"""What reads bytes of others either understands them or refuses them in its own words, whatever they are.

``tests/test_fuzz.py`` calls each target with its seeds and some hundred random inputs.  By hand and outside the CI it
runs for as long as wanted, guided by the branches that an input takes; that needs ``pip install atheris``::

    python -m tests.fuzz TARGET --seconds 600      # one of the names below
    python -m tests.fuzz all --seconds 60          # each of them, one after the other

An input that a target cannot stand is printed, and left in the working directory as ``crash-*``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from attrs import frozen

from rrmaster.config.option import SettingsError
from rrmaster.config.sources import from_environment, from_table, read
from rrmaster.control.requests import Refused, _parse, new_size
from rrmaster.logs.capture import LineSplitter
from rrmaster.protocol import proxy_header, template_wire, wire
from rrmaster.protocol.uplink import decode_up
from rrmaster.status.model import ListenerStatus, ReloadStatus, Snapshot, WorkerStatus, from_json, to_json

MAX_BYTES = 8192
"""Of one input; a message to the master may have twice that, of the same parts."""


@frozen
class Target:
    """A reader, the errors that it may raise, and inputs to begin with."""

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        """Read an input.  Raises what is no refusal."""
        with contextlib.suppress(*self.refusals):
            self.read(data)


def _proxy_header(data: bytes) -> None:
    size = proxy_header.size(data)
    if size is not None and size <= len(data):
        proxy_header.parse(data[:size])


def _note(data: bytes) -> None:
    found = wire.decode_note(data)
    if found is not None:
        with contextlib.suppress(wire.NoteRefused):  # a number that is infinite, or text that is half a character
            assert wire.decode_note(wire.encode_note(found[0])) == found


def _settings_file(data: bytes) -> None:
    table = tomllib.loads(data.decode())
    read([from_table(table, "rrmaster.toml")])


def _environment(data: bytes) -> None:
    pairs = (line.partition("=") for line in data.decode().splitlines())
    source, _ = from_environment({f"RRMASTER_{name}": value for name, _, value in pairs})
    read([source, from_table({"application": "a:b"}, "x")])


def _control(data: bytes) -> None:
    request = _parse(data)
    new_size(str(request.get("size")), 3, lambda: 4)


def _status(data: bytes) -> None:
    from_json(_parse(data))


def _output(data: bytes) -> None:
    lines: list[str] = []
    splitter = LineSplitter(lines.append, clock=lambda: 0.0)
    for part in data.split(b"\xff\xff"):
        splitter.feed(part)
    splitter.end()
    assert not any(char < " " and char != "\t" for line in lines for char in line), "no control characters"


UP = (wire.Ready(7, 1, (0, 1)), wire.Report(3, 2), wire.Failed("why"), wire.Listen(1, "::1", 80), wire.Attend(2, True))

OF_A_TEMPLATE = (
    template_wire.Loaded(("it started a thread",)),
    template_wire.LoadFailed("why", ("RRMASTER_WORKER_SLOT",)),
    template_wire.ForkRequest(1, template_wire.WORKER, {"A": "b"}, ("rrmaster", "worker")),
    template_wire.Forked(1, 2),
    template_wire.ForkFailed(1, "why"),
    template_wire.MemoryUse(1, 2, 3),
)

STATUS = json.dumps(
    to_json(
        Snapshot(
            "shop", 1, "0.1", "a:b", "random-two", 1.0, 2.0, 4, 1, 9, 0, 0, 0, 0, 0,
            reload=ReloadStatus("committed", 2, 0),
            listeners=(ListenerStatus("127.0.0.1:80", 0, 2048),),
            workers=(WorkerStatus(0, 1, 2, 1, "serving", 1.0, 1.0, 3, 1, 9, 6),),
        )
    )
).encode()  # fmt: skip

TARGETS = {
    "wire": Target(decode_up, (wire.ProtocolError,), tuple(wire.encode(message) for message in UP)),
    "wire-down": Target(
        wire.decode_down, (wire.ProtocolError,), (wire.encode(wire.Handoff(1)), wire.encode(wire.Listening(1, 98)))
    ),
    "note": Target(_note, (wire.ProtocolError,), (wire.encode_note({"a": [1, None, "x"]}),)),
    "template": Target(
        template_wire.decode, (ValueError,), tuple(template_wire.encode(message) for message in OF_A_TEMPLATE)
    ),
    "proxy": Target(
        _proxy_header,
        (proxy_header.MalformedHeader,),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + bytes(range(12)),
        ),
    ),
    "settings": Target(
        _settings_file,
        (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError),
        (
            b'application = "a:b"\nworkers = "2:4"\nbind = ["127.0.0.1:80", "unix:/x"]\n',
            b'application = "a:b"\nunix-mode = "660"\nkeep_alive = "5s"\n',
        ),
    ),
    "environment": Target(
        _environment, (SettingsError, UnicodeDecodeError), (b"WORKERS=4\nBIND=[::1]:8000,unix:/x\n",)
    ),
    "control": Target(_control, (Refused,), (b'{"do": "scale", "size": "+1"}\n',)),
    "status": Target(_status, (Refused, ValueError), (STATUS,)),
    "output": Target(_output, (), (b"hello\n\x1b[31mred\xff\xffworld\r\n",)),
}


def main() -> int:
    """Fuzz one target in this process, or each in one of its own.  The exit status is 0 if none found anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60)
    chosen = parser.parse_args()
    if chosen.target == "all":
        command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(chosen.seconds)]
        return max(subprocess.run([*command, name], check=False).returncode for name in TARGETS)
    import atheris  # only by hand

    for name in [name for name in sys.modules if name.startswith("rrmaster")]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["rrmaster", "tests.fuzz"]):
        target = import_module("tests.fuzz").TARGETS[chosen.target]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        bounds = [f"-max_total_time={chosen.seconds}", f"-max_len={MAX_BYTES}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *bounds, corpus], target)
        atheris.Fuzz()  # it ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
