#!/bin/bash
# A wheel that builds today cannot be checked or uploaded by last year's twine.
#
# Expected    twine hands a file to the index; which version of the metadata a wheel has is the index's business.
# Versions    hatchling 1.33.0; twine 6.1.0 and 7.0.0; packaging 26.4
# Behaviour   hatchling writes Metadata-Version 2.5 by itself, for a project that uses nothing new. twine 6.1.0 ends
#             with InvalidDistribution, 7.0.0 passes. A newer packaging does not help: packaging 26.4 knows 2.5, but
#             twine 6.1.0 writes its own list over the private one of that library, when it is imported.
# Output      metadata 2.5; twine 6.1.0 check: status 1, "not a valid metadata version"; twine 7.0.0: PASSED
# Date        2026-11-28
# Why         a release job that pins twine and lets the build backend float (build isolation fetches the newest)
#             fails at the last step, on the day of the release. Pin both, or neither; core-metadata-version in the
#             project's hatch configuration holds the old one.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
cd "$lab"
python3 -m venv v
pip() { v/bin/pip "$1" -q --disable-pip-version-check "${@:2}"; }
pip install twine==6.1.0 hatchling==1.33.0 packaging==26.4
cat > pyproject.toml <<'LINES'
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "shop"
version = "1"

[tool.hatch.build.targets.wheel]
packages = ["shop"]
LINES
mkdir shop; touch shop/__init__.py
pip wheel --no-deps --no-build-isolation --wheel-dir dist .
version=$(python3 -c "import glob, zipfile as z; print(z.ZipFile(glob.glob('dist/*.whl')[0]).read('shop-1.dist-info/METADATA').split()[1].decode())")
was=0; v/bin/twine check dist/*.whl > said 2>&1 || was=$?
pip install twine==7.0.0
now=0; v/bin/twine check dist/*.whl > says 2>&1 || now=$?
cat said says
echo "metadata $version; twine 6.1.0: status $was; twine 7.0.0: status $now"
if [ "$version/$was/$now" != "2.5/1/0" ] || ! tr -s '\n ' ' ' < said | grep -q "not a valid metadata version"; then
    echo "changed: the head of this file says what was seen in 2026"; exit 1
fi
