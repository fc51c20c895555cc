"""Applications whose import leaves something behind that forked workers would share.  DEED names it."""

import atexit
import fcntl
import io
import multiprocessing
import os
import shutil
import tempfile
import zipfile

FOLDER = os.environ["FOLDER"]
"""The folder that the test has filled."""


def _file():
    kept = open(f"{FOLDER}/words", "rb", buffering=0)  # noqa: SIM115  # it stays open, that is the point
    kept.read(3)
    return lambda: kept.read(4).decode()


def _twice():
    one = os.open(f"{FOLDER}/words", os.O_RDONLY)
    other = os.dup(one)
    return lambda: os.read(one, 2).decode() + os.read(other, 2).decode()


def _gone():
    with open(f"{FOLDER}/passing", "w") as file:
        file.write("abcdefgh")
    kept = os.open(f"{FOLDER}/passing", os.O_RDONLY)
    os.unlink(f"{FOLDER}/passing")
    return lambda: os.read(kept, 4).decode()


def _archive():
    archive = zipfile.ZipFile(f"{FOLDER}/words.zip")  # it stays open
    return lambda: str([zlib_sum(archive.read(name)) for name in archive.namelist()])


def _arrays():
    import numpy

    arrays = numpy.load(f"{FOLDER}/numbers.npz")
    return lambda: str([int(arrays[name].sum()) for name in sorted(arrays.files)])


def _image():
    from PIL import Image

    image = Image.open(f"{FOLDER}/noise.png")
    return lambda: str(zlib_sum(image.convert("L").tobytes()))


def zlib_sum(data):
    import zlib

    return zlib.crc32(data)


def _leader():
    kept = open(f"{FOLDER}/leader", "rb")  # noqa: SIM115  # it stays open
    try:
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return lambda: f"follower {kept.name}"
    return lambda: f"leader {kept.name}"


def _lock():
    lock = multiprocessing.get_context("fork").Lock()
    return lambda: str(lock.acquire(timeout=0.1))


def _memory():
    import mmap

    memory = mmap.mmap(-1, 1)

    def count():
        memory[0] += 1
        return str(memory[0])

    return count


def _directory():
    made = tempfile.TemporaryDirectory()
    return lambda: f"{made.name} {os.path.isdir(made.name)}"


def _removed():
    made = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, made)
    return lambda: f"{made} {os.path.isdir(made)}"


def _fails():
    tempfile.TemporaryDirectory()
    atexit.register(shutil.rmtree, tempfile.mkdtemp())
    raise RuntimeError("the import fails")


def _flushes():
    buffer = io.StringIO("what a client has not sent yet")

    def flush():
        with open(f"{FOLDER}/flushed", "a") as file:
            file.write(f"{os.getpid()}\n")
        buffer.close()

    atexit.register(flush)
    return lambda: str(os.getpid())


work = {
    "file": _file, "twice": _twice, "gone": _gone, "archive": _archive, "arrays": _arrays, "image": _image,
    "leader": _leader, "lock": _lock, "memory": _memory, "directory": _directory, "removed": _removed, "fails": _fails,
    "flushes": _flushes,
}[os.environ["DEED"]]()  # fmt: skip


async def answers(stream):
    """The worker's process id and one answer for each piece that it receives."""
    async for _ in stream:
        try:
            answer = work()
        except Exception as error:
            answer = repr(error)
        await stream.send_all(f"{os.getpid()} {answer}".encode())
