"""Where does a line of the access log go?  Into this worker's stdout, which the master reads.

The master has the file: it opens it, opens it again when it was moved away, and writes it in a thread of its own, so
neither a full disk nor a reader that has stalled delays a request.  A line begins with a mark that the master has drawn
at its start: a client, whose words an application may print, cannot guess it, and so cannot forge a line.  The mark
says that the line is for a file of its own, or of fields for a log in JSON.  In a log for people it says only that a
line begins here, whatever the application has printed without a newline.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from attrs import frozen

from ...protocol.access_format import Atom, pieces_of
from ...protocol.launch import Launch
from ..duty import Identity
from .line import Exchange, compiled, compiled_as_json

MARK = "RRMASTER_ACCESS_MARK"
"""The variable that holds the mark.  It is taken out of the environment: no other process needs it."""

TIME = Atom("t")

OF_A_CONNECTION = "%(client)s connection %(ms)s ms"
"""The line of a stream handler's connection, which has no request."""

_ALL = "%(client)s %(r)s %(m)s %(U)s %(q)s %(H)s %(s)s %(B)s %(L)s %(f)s %(a)s %(worker)s"
"""The fields of a line of JSON, unless a format names others."""


@frozen(eq=False)
class AccessLog:
    """The access log of this worker."""

    line: Callable[[Exchange], str]
    mark: str = ""
    """What each line begins with."""

    @classmethod
    def of(cls, launch: Launch, identity: Identity, format_: str = "") -> AccessLog | None:
        """As it was configured; None if there is none.  `format_` is the one to use if none was configured."""
        mark = os.environ.pop(MARK, "")
        if not launch.access_log:
            return None
        in_log, as_json = launch.access_log == "on", launch.log_format == "json"
        if launch.access_log_format != "auto":
            format_ = launch.access_log_format
        else:
            format_ = format_ or (_ALL if as_json else "brief" if in_log else "combined")
        pieces = pieces_of(format_)
        if not as_json:
            return cls(compiled(pieces, identity), mark and mark.rstrip() + "|" if in_log else mark)
        atoms = [piece for piece in pieces if piece != TIME]  # an entry of the log has a time of its own
        return cls(compiled_as_json(atoms if in_log else [TIME, *atoms], identity), mark)

    def write(self, exchange: Exchange) -> None:
        """Write the line of a request that is done."""
        try:
            # Not `print`: an application may have replaced `sys.stdout`, and a call of its own costs more.
            os.write(1, f"{self.mark}{self.line(exchange)}\n".encode(errors="replace"))
        except OSError:
            pass  # the master has gone, and its log with it; or the application has closed the descriptor
