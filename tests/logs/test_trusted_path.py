"""Root opens no file through a link of another user's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rrmaster.logs.sinks import RotatingFile
from rrmaster.logs.trusted_path import open_trusted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about root")

STRANGER = 54321


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "app.log").write_text("root's")
    return tmp_path / "secret" / "app.log"


@pytest.mark.parametrize(("link", "path"), [("log", "log"), ("logs", "logs/app.log"), ("logs", "./x/../logs/app.log")])
def test_a_link_of_another_users_is_not_followed(link: str, path: str, tmp_path: Path, precious: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / link).symlink_to(precious if link == path else precious.parent)
    os.chown(tmp_path / link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(OSError, match="link") as raised:
        RotatingFile(f"{tmp_path}/{link}" if path == link else f"{tmp_path}/{path}", 0, 0)
    assert raised.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="link"):
        open_trusted(f"{tmp_path}/{path}", os.O_WRONLY | os.O_CREAT)
    assert precious.read_text() == "root's"


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_of_roots_own_is_followed(absolute: bool, tmp_path: Path, precious: Path) -> None:
    (tmp_path / "logs").symlink_to(precious.parent if absolute else "./secret")
    fd = open_trusted(f"{tmp_path}/logs/app.log", os.O_RDONLY)
    assert os.read(fd, 100) == b"root's"
    os.close(fd)


def test_a_link_without_a_target_makes_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("new.log")
    os.close(open_trusted(f"{tmp_path}/log", os.O_WRONLY | os.O_CREAT))
    assert (tmp_path / "new.log").is_file()


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="link") as raised:
        open_trusted(f"{tmp_path}/a", os.O_RDONLY)
    assert raised.value.errno == errno.ELOOP


def test_a_descriptor_under_its_name_in_proc_is_opened(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (tmp_path / "out").open("w") as file:
        fd = open_trusted(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY)
        os.write(fd, b"here")
        os.close(fd)
    assert (tmp_path / "out").read_text() == "here"


def test_no_descriptor_is_left_open(tmp_path: Path, precious: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    os.close(open_trusted(os.fspath(precious), os.O_RDONLY))
    with pytest.raises(FileNotFoundError):
        open_trusted(f"{tmp_path}/no/file", os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before
