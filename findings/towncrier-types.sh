#!/bin/bash
# towncrier leaves out a fragment of an unknown type, says nothing, and deletes the others.
#
# Expected    newsfragments/2.bug.md (the type is called bugfix) is an error, or a warning, when the changelog is built.
# Versions    towncrier 26.9.0
# Behaviour   `towncrier build` reads the files whose name has a known type and skips all others without a word; exit
#             status 0. The entry is missing in the release's changelog, and the file lies on in the folder, to be
#             skipped again by the next release. The check exists, but only in a
#             project whose configuration has the key `ignore`: with an empty `ignore = []`, which one would take
#             for nothing, the same build refuses the file by name.
# Output      build: status 0, the changelog has 1 of 2 entries, 2.bug.md is left. with `ignore = []`: status 1
# Date        2026-11-28
# Why         the entry is lost at the one moment when it is needed, and the diff of the release shows only what is
#             there.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check towncrier==26.9.0
cd "$lab"
mkdir -p newsfragments
cat > towncrier.toml <<'LINES'
[tool.towncrier]
name = "shop"
directory = "newsfragments"
filename = "NEWS.md"
LINES
echo "A price can be a fraction." > newsfragments/1.feature.md
echo "A refund is paid once." > newsfragments/2.bug.md
cp -r newsfragments again
status=0; v/bin/towncrier build --version 1 --yes > said 2>&1 || status=$?
cat said
entries=$(grep -c "fraction\|refund" NEWS.md)
left=$(ls newsfragments)
named=$(grep -c "2.bug" said || true)
rm -r newsfragments; mv again newsfragments; echo 'ignore = []' >> towncrier.toml
strict=0; v/bin/towncrier build --version 2 --yes > strictly 2>&1 || strict=$?
echo "status $status, $entries of 2 entries, left: $left, named in the output $named times; with ignore = []: status $strict"
cat strictly
if [ "$status/$entries/$left/$named/$strict" != "0/1/2.bug.md/0/1" ]; then
    echo "changed: the head of this file says what was seen in 2026"; exit 1
fi
