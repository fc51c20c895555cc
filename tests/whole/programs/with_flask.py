import os
import time

from flask import Flask, request

app = Flask(__name__)


@app.get("/")
def who():
    environ = request.environ
    names = ("REMOTE_ADDR", "SERVER_NAME", "SCRIPT_NAME", "wsgi.url_scheme")
    return {"pid": os.getpid()} | {name: environ.get(name) for name in names}


@app.post("/length")
def length():
    return str(sum(len(chunk) for chunk in iter(lambda: request.stream.read(10_000), b"")))


@app.get("/stream")
def stream():
    return (b"%03d\n" % number for number in range(100))


@app.get("/endless")
def endless():
    def chunks():
        try:
            while True:
                yield b"x" * 1000
                time.sleep(0.005)
        finally:
            print("the stream has ended")

    return chunks()


@app.get("/parts")
def parts():
    return (bytes(65_536) for _ in range(10_000))


@app.get("/slow")
def slow():
    time.sleep(float(request.args.get("ms", "200")) / 1000)
    return {"pid": os.getpid()}


@app.get("/boom")
def boom():
    raise ZeroDivisionError("the view's own trouble")
