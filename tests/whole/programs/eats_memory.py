"""A request for /eat takes memory until the kernel ends it."""

import os


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        eaten = []
        while True:
            eaten.append(b"x" * 2**20)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Connection", "close"), ("Content-Length", str(len(body)))])
    return [body]
