#!/bin/bash
# A middleware typed by asgiref cannot wrap a Starlette application, nor be wrapped by one.
#
# Expected    asgiref.typing is the ASGI project's own description of an application; frameworks satisfy it.
# Versions    asgiref 3.13.0, starlette 1.10.0, mypy 2.4.1 --strict
# Behaviour   asgiref describes scopes and events as a union of TypedDicts, Starlette as MutableMapping[str, Any]. An
#             argument must accept all that the other side may pass, so neither callable is a subtype of the other,
#             in either direction, although all of them run together. A middleware between the two needs Any or a
#             cast on both of its sides.
# Output      two errors: [arg-type] for Timing(Starlette()), [assignment] for ASGIApp = Timing(...); the program runs
# Date        2026-11-28
# Why         a typed ASGI library has to choose its users at the first line. Types of one's own that both accept
#             (MutableMapping scopes in, Any events out) are less precise than either.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check asgiref==3.13.0 starlette==1.10.0 mypy==2.4.1
cd "$lab"
cat > shop.py <<'PROGRAM'
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from starlette.applications import Starlette
from starlette.types import ASGIApp


class Timing:
    def __init__(self, app: ASGI3Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await self.app(scope, receive, send)


timed = Timing(Starlette())
outer: ASGIApp = timed
PROGRAM
v/bin/python shop.py && echo "the program runs"
v/bin/mypy --strict --no-error-summary --hide-error-context shop.py > said || true
grep -o "^shop.py:[0-9]*: error.*\[[a-z-]*\]$" said | sed 's/: error.*\[/: [/' | tee errors
if [ "$(tr '\n' ' ' < errors)" != "shop.py:14: [arg-type] shop.py:15: [assignment] " ]; then
    echo "changed: the head of this file says what was seen in 2026"; exit 1
fi
