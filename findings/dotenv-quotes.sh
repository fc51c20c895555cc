#!/bin/bash
# python-dotenv replaces ${...} between single quotes, where a shell does not.
#
# Expected    SECRET='p${x}q' is taken as it stands: single quotes mean that in every shell, and python-dotenv's files
#             are read by `source .env`, too.
# Versions    python-dotenv 1.2.4, and uvicorn 0.54.0 (--env-file) that uses it
# Behaviour   the two quotes differ in their escapes alone. ${x} is replaced in both, by nothing when x is not set.
#             No escape keeps it: p\${x}q becomes p\q. $x without braces is left alone, in all forms. The only way
#             out is dotenv_values(interpolate=False), which `uvicorn --env-file` does not offer.
# Output      single quotes: sh says p${x}q, dotenv says pq, uvicorn's application sees pq; with a backslash: p\q;
#             interpolate=False: p${x}q
# Date        2026-11-28
# Why         a generated password with ${ in it is shortened in silence, in Python only, and the database's "wrong
#             password" is all that is seen.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check python-dotenv==1.2.4 uvicorn==0.54.0
cd "$lab"
unset x
cat > env <<'LINES'
SECRET='p${x}q'
ESCAPED='p\${x}q'
LINES
cat > shop.py <<'PROGRAM'
import os
from pathlib import Path

Path("seen").write_text(os.environ["SECRET"])


async def app(scope, receive, send):
    raise SystemExit  # the import is all that is asked for
PROGRAM
# A port of 0 and a lifespan that ends at once: uvicorn imports the application and leaves.
timeout 10 v/bin/uvicorn --env-file env --port 0 --lifespan on shop:app > uvicorn.log 2>&1 || true
shell=$(. ./env; printf %s "$SECRET")
cat > see.py <<'PROGRAM'
import sys
from pathlib import Path

from dotenv import dotenv_values

values, plain = dotenv_values("env"), dotenv_values("env", interpolate=False)
seen = [sys.argv[1], values["SECRET"], Path("seen").read_text(), values["ESCAPED"], plain["SECRET"]]
print("sh, dotenv, uvicorn, dotenv with a backslash, dotenv without interpolation:", *seen)
if seen != ["p${x}q", "pq", "pq", "p\\q", "p${x}q"]:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py "$shell"
