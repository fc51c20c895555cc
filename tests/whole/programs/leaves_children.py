"""Requests start children that no signal to the worker's process group reaches, and get their process ids."""

import os
import subprocess
import time

SLEEP = ["/bin/sleep", "600"]


def start(how):
    """The process id of a new child."""
    clean = {"env": {}} if how.startswith("clean") else {}
    match how.removeprefix("clean-"):
        case "session":
            return subprocess.Popen(SLEEP, start_new_session=True, **clean).pid
        case "group":
            return subprocess.Popen(SLEEP, process_group=0, **clean).pid
        case "twice":  # a daemon, as daemon(7) makes one: its parent ends at once, and it has a session of its own
            command = ["/bin/sh", "-c", "/bin/sleep 600 </dev/null >/dev/null 2>&1 & echo $!"]
            return int(subprocess.check_output(command, start_new_session=True, **clean))
        case "fork":
            ours, its = os.pipe()
            if pid := os.fork():
                os.waitpid(pid, 0)
                return int(os.read(ours, 20))
            os.setsid()
            if os.fork() == 0:
                os.write(its, str(os.getpid()).encode())
                os.closerange(0, 1000)  # among them the client's connection, and the worker's pipes
                time.sleep(600)
            os._exit(0)
    raise ValueError(how)


def answer(path):
    word = path.strip("/")
    if word == "hang":
        time.sleep(600)
    if word == "crash":
        os._exit(7)
    who = f"{os.getpid()} " if word.startswith("and-worker-") else ""
    return f"{who}{start(word.removeprefix('and-worker-'))}".encode()


def wsgi(environ, start_response):
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Connection", "close"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    body = answer(scope["path"])
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(stream):
    word = bytes(await stream.receive_some()).split()[1].decode()
    await stream.send_all(answer(word))
