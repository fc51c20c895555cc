#!/bin/bash
# A listener with TCP_DEFER_ACCEPT resets its clients when it is closed.
#
# Expected    a server that stops accepts what waits, closes its listener, and no client that had connected is reset.
# Versions    Linux 6.18; CPython 3.11, socket only. systemd sets the option with DeferAcceptSec=, nginx with `deferred`,
#             Apache by default (AcceptFilter).
# Behaviour   a client that has connected and not spoken has a connection, the server has no socket, and accept() does
#             not give it one. close() forgets it, and its first byte is answered with a reset. Set to 0 before, on the
#             open listener, the option lets such clients in with the kernel's next SYN-ACK, a second later at most.
# Output      without the option: 20 of 20 late clients served
#             with it: 0 of 20 served, 20 reset
#             set to 0 a second before the close: 20 of 20 served
# Date        2026-11-29
# Why         a test that sends its request at once never sees it, and in production it looks like a client's fault:
#             browsers open connections in advance.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
cat > "$lab/see.py" <<'PROGRAM'
import socket
import sys
import time

CLIENTS = 20


def served(deferred, cure):
    """How many clients that speak after the close are served; the rest is reset."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, deferred)
    clients = [socket.create_connection(listener.getsockname(), 5) for _ in range(CLIENTS)]
    if cure:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
        time.sleep(1.5)  # the kernel repeats its SYN-ACK after a second
    listener.setblocking(False)
    accepted = []
    try:
        while True:
            accepted.append(listener.accept()[0])
    except BlockingIOError:
        listener.close()
    count = 0
    for client in clients:
        try:
            client.sendall(b"?")
            for sock in accepted:
                sock.setblocking(False)
                try:
                    sock.sendall(sock.recv(1))
                except BlockingIOError:
                    pass  # another client's
            count += client.recv(1) == b"?"
        except ConnectionResetError:
            pass
    return count


plain, trap, cured = served(0, False), served(1, False), served(1, True)
print(f"without the option: {plain} of {CLIENTS} late clients served")
print(f"with it: {trap} of {CLIENTS} served, {CLIENTS - trap} reset")
print(f"set to 0 a second before the close: {cured} of {CLIENTS} served")
if (plain, trap, cured) != (CLIENTS, 0, CLIENTS):
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
python3 "$lab/see.py"
