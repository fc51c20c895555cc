#!/bin/bash
# Two gunicorns of one user share a control socket, and the end of the older takes it from the younger.
#
# Expected    each gunicorn can be asked and scaled by gunicornc while it runs; a name that is taken is refused.
# Versions    gunicorn 27.0.1 (the control socket is on unless it is turned off)
# Behaviour   the name is fixed for each user (gunicorn.ctl under $XDG_RUNTIME_DIR or ~/.gunicorn). A second gunicorn
#             replaces the socket of the first without a word, and gunicornc talks to the second. When the *first* one
#             stops, it removes the name, which is the second's by then: the second serves on, out of reach until it
#             is started again.
# Output      first alone: 2 workers. both: 1 worker (the second's). first stopped: the second answers HTTP, gunicornc
#             fails with "Failed to connect".
# Date        2026-11-28
# Why         a restart that overlaps (blue and green, or two services under one account) loses control of the server
#             that stays. `gunicornc -c "worker add 2"` may reach the wrong service before. A --control-socket for each
#             avoids both.
set -eu
lab=$(mktemp -d)
pids=""
trap 'kill $pids 2>/dev/null || true; wait; rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check gunicorn==27.0.1
cd "$lab"
export HOME=$lab
unset XDG_RUNTIME_DIR GUNICORN_CMD_ARGS
cat > shop.py <<'PROGRAM'
def app(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PROGRAM
serve() {  # LOG WORKERS: a gunicorn on a free port, ready
    v/bin/gunicorn -w "$2" -b 127.0.0.1:0 shop:app 2> "$1" &
    pids="$pids $!"
    for _ in $(seq 100); do
        if grep -q "Control socket listening" "$1" && [ "$(grep -c "Booting worker" "$1")" = "$2" ]; then return; fi
        sleep 0.1
    done
    echo "gunicorn did not start"; exit 2
}
workers() { v/bin/gunicornc -c "show workers" 2>&1 | grep -o "Total: . workers\|Failed to connect" || true; }
serve first.log 2; first=$!
alone=$(workers)
serve second.log 1
both=$(workers)
kill "$first"; wait "$first" || true
after=$(workers)
port=$(grep -o "127.0.0.1:[0-9]*" second.log | head -1)
serves=$(v/bin/python -c "import urllib.request as u; print(u.urlopen('http://$port/', timeout=5).read().decode())")
echo "first alone: $alone. both: $both. first stopped: the second says $serves, gunicornc says $after"
if [ "$alone/$both/$serves/$after" != "Total: 2 workers/Total: 1 workers/ok/Failed to connect" ]; then
    echo "changed: the head of this file says what was seen in 2026"; exit 1
fi
