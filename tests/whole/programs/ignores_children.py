"""Applications whose import decides what happens to children: it ignores SIGCHLD, or reaps in a handler."""

import os
import signal


def _reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


signal.signal(signal.SIGCHLD, _reap if os.environ.get("REAPS") else signal.SIG_IGN)
_SET = signal.getsignal(signal.SIGCHLD)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    kept = signal.getsignal(signal.SIGCHLD) == _SET
    return [f"kept {kept}".encode()]
