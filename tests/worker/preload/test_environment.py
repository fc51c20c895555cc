"""What an import reads of the environment that each worker has for itself: by its name, or in a copy of the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrmaster.worker.preload.watch import ImportWatch
from tests.launches import a_launch

LIBRARY = "import os\ndef read(): return {n.lower(): v for n, v in os.environ.items()}"

TEMPLATE = """
import json, sys
sys.path[:0] = sys.argv[2:]
from rrmaster.worker.preload.watch import ImportWatch
from tests.launches import a_launch
watch = ImportWatch(a_launch("shop:app"))
try:
    with watch.watched():
        import shop
except KeyError:
    pass
print(json.dumps(watch.asked()))
"""


def asked_by(folder: Path, code: str) -> object:
    """The variables that an application is found to read.  In a process without these tests, which name them, too."""
    installed = folder / "site-packages"
    installed.mkdir()
    (installed / "a_library.py").write_text(LIBRARY)
    (folder / "shop.py").write_text(code)
    paths = [str(folder), str(installed), *sys.path]
    command = [sys.executable, "-c", TEMPLATE, "shop", *paths]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nENV = dict(os.environ)\nSLOT = ENV.get('RRMASTER_WORKER_SLOT', '0')",
        "import os\nENV = os.environ.copy()\nSLOT = ENV.get('RRMASTER_WORKER_SLOT', '0')",
        "import os\nENV = {**os.environ}\nSLOT = ENV.get('RRMASTER_WORKER_SLOT', '0')",
        "import os\nENV = os.environb.copy()\nSLOT = ENV.get(b'RRMASTER_WORKER_SLOT', b'0')",
        "import os\nENV = {n: v for n, v in os.environ.items() if n.startswith('RRMASTER_')}",
        "import os\nSLOT = [v for n, v in {**os.environ}.items() if n.endswith('_SLOT')]",
        "import os\nSLOT = [v for n, v in dict(os.environ).items() if n.endswith(('_NODE', '_SLOT'))]",
        "import os\nSLOT = [v for n, v in dict(os.environb).items() if n.endswith(b'_SLOT')]",
        "import os\nSLOT = [v for n, v in os.environ.items() if 'SLOT' in n]",
        "import os\nSLOT = [v for n, v in os.environ.items() if n.split('_')[-1] == 'SLOT']",
        "import os, re\nENV = {**os.environ}\nSLOT = [v for n, v in ENV.items() if re.search('_SLOT$', n)]",
        "import os, fnmatch\nENV = {**os.environ}\nSLOT = [ENV[n] for n in fnmatch.filter(ENV, '*_SLOT')]",
        "import os\nSLOT = os.environ.get('RRMASTER_WORKER_SLOT')",
        "import os\nSLOT = dict(os.environ)['RRMASTER_WORKER_SLOT']",
        "import a_library\nclass Settings:\n    rrmaster_worker_slot: int = 0\na_library.read()",
    ],
)
def test_a_copy_of_the_environment_counts_where_the_application_names_what_workers_have(
    tmp_path: Path, code: str
) -> None:
    assert asked_by(tmp_path, code) == ["RRMASTER_WORKER_SLOT"]


@pytest.mark.parametrize(
    "code",
    [
        "import os\nCONFIG = {**os.environ}",
        "import os\nSHOP = {n: v for n, v in os.environ.items() if n.startswith('SHOP_')}",
        "import os, re\nENV = {**os.environ}\nALL = [n for n in ENV if re.match(r'\\w+', n) and n != 'PATH']",
        "import os\nENV = {**os.environ}\ndef served(path, form): return path.endswith('.py') or 'id' in form",
        "import os, subprocess\nsubprocess.run(['/bin/true'], env=dict(os.environ, A='1'))",
        "import a_library\nSETTINGS = a_library.read()",
        "import a_library, os\nSETTINGS = a_library.read()\ndef hook(): return os.environ['RRMASTER_WORKER_SLOT']",
        "import os\ndef hook(): return os.environ['RRMASTER_WORKER_SLOT']",
    ],
)
def test_a_copy_alone_keeps_no_application_from_being_forked(tmp_path: Path, code: str) -> None:
    assert asked_by(tmp_path, code) == []


def test_what_the_import_changes_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD", "1")
    monkeypatch.delenv("NEW", raising=False)
    with ImportWatch(a_launch()).watched():
        os.environ["NEW"] = "here"
        del os.environ["OLD"]
    assert os.environ.pop("NEW") == "here"
    assert "OLD" not in os.environ
