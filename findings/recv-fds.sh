#!/bin/bash
# socket.recv_fds() and send_fds() take flags and ignore them.
#
# Expected    socket.recv_fds(line, size, count, MSG_PEEK) looks and leaves the message; with MSG_DONTWAIT it raises
#             BlockingIOError on an empty queue; send_fds(..., MSG_DONTWAIT) raises it on a full one.
# Versions    CPython 3.11.7 and 3.13.0 run; the source of 3.15 is the same. array and socket only, no package.
# Behaviour   both functions accept the argument and never hand it to recvmsg or sendmsg. MSG_PEEK takes the message
#             away, MSG_DONTWAIT waits (here until the socket's own time limit), in both directions.
#             line.recvmsg and line.sendmsg, with the same flags, do as they are told.
# Output      recv_fds with MSG_PEEK: 1 descriptor, and the next recvmsg finds nothing
#             recv_fds with MSG_DONTWAIT waits, send_fds with MSG_DONTWAIT waits
#             recvmsg with MSG_DONTWAIT: BlockingIOError at once
# Date        2026-11-28
# Why         a manager that passes descriptors "without waiting" waits for the slowest of its children, and only when
#             that child's queue is full: no test of the normal case sees it.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
cat > "$lab/see.py" <<'PROGRAM'
import os
import socket
import struct
import sys
import time

DONTWAIT = socket.MSG_DONTWAIT


ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
handed, _ = os.pipe()
socket.send_fds(ours, [b"one"], [handed])
message, descriptors, _, _ = socket.recv_fds(theirs, 16, 1, socket.MSG_PEEK)
half_a_second = struct.pack("ll", 0, 500_000)
for end in (ours, theirs):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, half_a_second)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, half_a_second)


def answer(call):
    """What a call does in the end, repeated until it cannot go on: the kernel ends each wait after 0.5 s."""
    try:
        while True:
            begin = time.monotonic()
            call()
    except BlockingIOError:  # the end of a wait is EAGAIN, too: the clock tells them apart
        return "waits" if time.monotonic() - begin > 0.3 else "BlockingIOError at once"


seen = {
    "recv_fds with MSG_PEEK": f"{len(descriptors)} descriptor, then {answer(lambda: theirs.recvmsg(16, 64, DONTWAIT))}",
    "recv_fds with MSG_DONTWAIT": answer(lambda: socket.recv_fds(theirs, 16, 1, DONTWAIT)),
    "recvmsg with MSG_DONTWAIT": answer(lambda: theirs.recvmsg(16, 64, DONTWAIT)),
    "send_fds with MSG_DONTWAIT": answer(lambda: socket.send_fds(ours, [b"one"], [handed], DONTWAIT)),
    "sendmsg with MSG_DONTWAIT": answer(lambda: ours.sendmsg([b"one"], [], DONTWAIT)),
}
for name, what in seen.items():
    print(f"{name}: {what}")
AT_ONCE = "BlockingIOError at once"
if list(seen.values()) != [f"1 descriptor, then {AT_ONCE}", "waits", AT_ONCE, "waits", AT_ONCE]:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
python3 "$lab/see.py"
