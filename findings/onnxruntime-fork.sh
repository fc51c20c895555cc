#!/bin/bash
# A process that is forked after the import of onnxruntime computes as it should, and aborts at its end.
#
# Expected    to import a library before a fork (gunicorn --preload, multiprocessing) is safe as long as it is not used.
# Versions    onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.7
# Behaviour   the import opens an SQLite database below ~/.cache and starts a thread, for figures of its use. A forked
#             process has the open database and not the thread. A session works there; at its end the library waits for
#             the thread and calls terminate (SIGABRT). With ORT_DISABLE_TELEMETRY=1 there is neither.
# Output      with figures of use: [2.0], SIGABRT
#             with ORT_DISABLE_TELEMETRY=1: [2.0], 0
# Date        2026-11-29
# Why         each worker that ends regularly looks crashed, and exit handlers that run later are skipped. Nothing tells
#             of it while serving.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6
cd "$lab"
export HOME=$lab
cat > see.py <<'PROGRAM'
import os
import signal
import sys

import numpy
import onnxruntime

MODEL = bytes.fromhex(  # y = x + x
    "080712003a350a0e0a01780a017812017922034164641201645a0f0a0178120a0a08080112040a020801620f0a0179120a0a080801"
    "12040a02080142040a00100d"
)
child = os.fork()
if child == 0:
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    print(session.run(None, {"x": numpy.ones(1, "float32")})[0].tolist(), end=", ", flush=True)
    sys.exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(signal.Signals(-status).name if status < 0 else status)
PROGRAM
told=$(v/bin/python see.py 2> /dev/null)
quiet=$(ORT_DISABLE_TELEMETRY=1 v/bin/python see.py)
echo "with figures of use: $told"
echo "with ORT_DISABLE_TELEMETRY=1: $quiet"
if [ "$told" != "[2.0], SIGABRT" ] || [ "$quiet" != "[2.0], 0" ]; then
    echo "changed: the head of this file says what was seen in 2026" >&2
    exit 1
fi
