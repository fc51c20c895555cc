#!/bin/bash
# Over HTTP/2 a browser's second cookie is there, missing, in place of the first or a part of it, by framework and server.
#
# Expected    an application has the cookies that the browser has sent, whatever server it runs on.
# Versions    granian 2.8.9, hypercorn 0.18.0 with h2 4.4.0; Django 5.2.19, Litestar 2.25.0, Falcon 4.4.0, Quart 0.22.0,
#             Starlette 1.10.0, a2wsgi 1.10.10, asgiref 3.13.0, Flask 3.1.3
# Behaviour   HTTP/2 lets a client send each cookie in a field of its own, and browsers do; curl does not. The ASGI
#             specification leaves the fields as they came, and granian does so; h2 joins them, and so does whatever uses
#             it. Of fields that came apart, Starlette and Quart read all, Litestar the first, Falcon the last, and
#             Django, a2wsgi and asgiref's WsgiToAsgi glue them with a comma, as other fields are: the first cookie then
#             ends in ",user=ann", and there is no second one. As a WSGI server granian joins them itself.
# Output      see KNOWN below: the cookies that each application has seen for cart=7 and user=ann
# Date        2026-11-29
# Why         a login that is lost in browsers and works in every test by curl or httpx; on the same code, with the
#             same requests, when another server is tried. (Known of Django on granian since 2023.)
set -eu
lab=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check granian==2.8.9 hypercorn==0.18.0 h2==4.4.0 django==5.2.19 \
    litestar==2.25.0 falcon==4.4.0 quart==0.22.0 starlette==1.10.0 a2wsgi==1.10.10 asgiref==3.13.0 flask==3.1.3
cd "$lab"
export HOME=$lab
cat > shops.py <<'PROGRAM'
import a2wsgi
import asgiref.wsgi
import django
import falcon.asgi
import flask
import litestar
import quart
from django.conf import settings
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


def told(cookies):
    return " ".join(f"{name}={value}" for name, value in sorted(cookies.items()))


async def with_starlette(request):
    return PlainTextResponse(told(request.cookies))


starlette = Starlette(routes=[Route("/", with_starlette)])

by_flask = flask.Flask("shop")
by_flask.add_url_rule("/", view_func=lambda: told(flask.request.cookies))
a2wsgi_flask = a2wsgi.WSGIMiddleware(by_flask)
asgiref_flask = asgiref.wsgi.WsgiToAsgi(by_flask)

by_quart = quart.Quart("shop")


@by_quart.get("/")
async def with_quart():
    return told(quart.request.cookies)


@litestar.get("/")
async def with_litestar(request: litestar.Request) -> str:
    return told(request.cookies)


by_litestar = litestar.Litestar([with_litestar])


class Page:
    async def on_get(self, req, resp):
        resp.text = told(req.cookies)


by_falcon = falcon.asgi.App()
by_falcon.add_route("/", Page())

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
django.setup()
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

urlpatterns = [path("", lambda request: HttpResponse(told(request.COOKIES)))]
by_django = get_asgi_application()
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import subprocess
import sys
import time

import h2.config
import h2.connection
import h2.events

BROWSER = [(":method", "GET"), (":scheme", "http"), (":authority", "shop.example"), (":path", "/")]
COOKIES = [("cookie", "cart=7"), ("cookie", "user=ann")]


def asked(port):
    """The body of an answer over HTTP/2, with prior knowledge, to a request with two cookies."""
    until = time.monotonic() + 15
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", port), 10)
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    body = b""
    with sock:
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        http.initiate_connection()
        http.send_headers(1, BROWSER + COOKIES, end_stream=True)
        sock.sendall(http.data_to_send())
        while data := sock.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                if isinstance(event, h2.events.StreamEnded):
                    return body.decode()
    return "no answer"


def seen(command):
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            return asked(PORT)
        finally:
            server.terminate()


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
BOTH, FIRST, LAST, GLUED = "cart=7 user=ann", "cart=7", "user=ann", "cart=7,user=ann"
KNOWN = {
    ("granian", "starlette"): BOTH,
    ("granian", "by_quart"): BOTH,
    ("granian", "by_litestar"): FIRST,
    ("granian", "by_falcon"): LAST,
    ("granian", "by_django"): GLUED,
    ("granian", "a2wsgi_flask"): GLUED,
    ("granian", "asgiref_flask"): GLUED,
    ("granian, WSGI", "by_flask"): BOTH,
    ("hypercorn", "by_litestar"): BOTH,
    ("hypercorn", "by_falcon"): BOTH,
    ("hypercorn", "by_django"): BOTH,
}
found = {}
for server, shop in KNOWN:
    interface = "wsgi" if "WSGI" in server else "asgi"
    found[server, shop] = seen(
        ["v/bin/hypercorn", "--bind", f"127.0.0.1:{PORT}", f"shops:{shop}"]
        if server == "hypercorn"
        else ["v/bin/granian", "--interface", interface, "--http", "2", "--port", str(PORT), f"shops:{shop}"]
    )
    print(f"{server}, {shop}: {found[server, shop]}")
sys.exit(0 if found == KNOWN else "changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
