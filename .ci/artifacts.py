"""Whether a release holds what it should: ``python .ci/artifacts.py DIST DIRECT``.

DIST has the sdist and the wheel that was built from it, DIRECT the wheel that was built from the work tree.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = {"pyproject.toml", "PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
FOLDERS = ("rrmaster", "tests", "docs", "bench", "newsfragments")
IGNORED = {"__pycache__", "build"}
"""Folders that .gitignore names: what an interpreter and the bench leave behind."""


def in_work_tree(*folders: str) -> set[str]:
    """The files of these folders that belong to the project."""
    files = (file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if IGNORED.isdisjoint(file.relative_to(ROOT).parts)}


def only(folder: Path, pattern: str) -> Path:
    """The one file of this name.  Raises ValueError for none and for several."""
    (file,) = folder.glob(pattern)
    return file


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def complaints(dist: Path, direct: Path) -> list[str]:
    """What is wrong, one sentence each."""
    sdist, wheel = only(dist, "*.tar.gz"), only(dist, "*.whl")
    found = []
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = (DOCUMENTS | in_work_tree(*FOLDERS)) - names
    found += [f"the sdist misses {name}" for name in sorted(missing) if not is_left_out(name)]

    files, ours = contents(wheel), in_work_tree("rrmaster")
    package = {name for name in files if ".dist-info/" not in name}
    found += [f"the wheel misses {name}" for name in sorted(ours - package)]
    found += [f"the wheel holds {name}, which is not the package's" for name in sorted(package - ours)]
    for wanted in ("rrmaster/py.typed", f"{stem(wheel)}.dist-info/licenses/LICENSE"):
        if wanted not in files:
            found.append(f"the wheel misses {wanted}")
    if files != contents(only(direct, "*.whl")):
        found.append("the wheel built from the sdist differs from the one built from the work tree")
    return found


def is_left_out(name: str) -> bool:
    """Files of the bench's trial runs, which .gitignore names."""
    return name.startswith(("bench/results/quick-", "bench/results/part-"))


def stem(wheel: Path) -> str:
    """``rrmaster-0.1.0``."""
    return "-".join(wheel.name.split("-")[:2])


def main(dist: str, direct: str) -> int:
    found = complaints(Path(dist), Path(direct))
    print("\n".join(found) if found else "the sdist and the wheel hold what they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
