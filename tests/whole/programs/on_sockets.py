"""As on_trio.py, by servers that call accept themselves: `threads` (socketserver), `blocking` (one after the other),
or `asyncio` (its own server, on a socket of rrmaster's)."""

import asyncio
import os
import socketserver
import sys

import rrmaster


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1000):
            self.request.sendall(b"0 %d %s\n" % (os.getpid(), data))


class Server(socketserver.ThreadingTCPServer):
    def __init__(self, sock):
        super().__init__(sock.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock


def blocking(sock):
    while True:
        connection, _ = sock.accept()
        with connection:
            while data := connection.recv(1000):
                connection.sendall(b"0 %d %s\n" % (os.getpid(), data))


async def handle(reader, writer):
    while data := await reader.read(1000):
        writer.write(b"0 %d %s\n" % (os.getpid(), data))
    writer.close()


async def serve(sock):
    server = await asyncio.start_server(handle, sock=sock)
    await server.serve_forever()


if __name__ == "__main__":
    kind, address = sys.argv[1:]
    host, _, port = address.rpartition(":")
    sock = rrmaster.listening_socket((host, int(port)))
    print("open", 0, sock.getsockname(), flush=True)
    if kind == "threads":
        Server(sock).serve_forever()
    elif kind == "blocking":
        blocking(sock)
    else:
        asyncio.run(serve(sock))
