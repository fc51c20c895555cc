"""The import starts a daemon, whose process id each request gets."""

import os
import subprocess

COMMAND = ["/bin/sh", "-c", "/bin/sleep 600 </dev/null >/dev/null 2>&1 & echo $!"]
DAEMON = subprocess.check_output(COMMAND, start_new_session=True, text=True).strip()


def wsgi(environ, start_response):
    body = f"{os.getpid()} {DAEMON}".encode()
    start_response("200 OK", [("Connection", "close"), ("Content-Length", str(len(body)))])
    return [body]
