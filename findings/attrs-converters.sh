#!/bin/bash
# mypy does not know attrs' own Converter, and drops the check of the whole field with it.
#
# Expected    attrs.Converter(f) and functools.partial(f, unit=2) are checked like f: the argument of the class has
#             the type of f's first parameter.
# Versions    attrs 26.1.0, mypy 2.4.1 --strict
# Behaviour   mypy's attrs plugin takes a named function, a type or a lambda. For the two others it reports
#             "Unsupported converter" once, at the field, and the argument becomes Any: behind a `type: ignore` at
#             that line, S(wait=object()) passes --strict in every other file. A function that calls f keeps the check.
# Output      one error at each of the fields `partial` and `converter`; S(named=object()) is refused,
#             S(partial=object(), converter=object()) is not
# Date        2026-11-28
# Why         settings classes convert ("30s" to 30.0) in each field; one partial to share a converter makes the
#             class look typed and accept all.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check attrs==26.1.0 mypy==2.4.1
cd "$lab"
cat > shop.py <<'PROGRAM'
import functools

import attrs


def seconds(text: str | float, unit: float = 1) -> float:
    return float(text) * unit


@attrs.frozen(kw_only=True)
class S:
    named: float = attrs.field(default=1.0, converter=seconds)
    partial: float = attrs.field(default=1.0, converter=functools.partial(seconds, unit=60))
    converter: float = attrs.field(default=1.0, converter=attrs.Converter(seconds))


assert S(named="3", partial="3", converter="3") == S(named=3, partial=3, converter=3)


def wrong() -> None:
    S(named=object())
    S(partial=object(), converter=object())
PROGRAM
v/bin/python shop.py && echo "the program runs"
v/bin/mypy --strict --no-error-summary shop.py > said || true
cat said
misc=$(grep "Unsupported converter" said | cut -d: -f2 | tr '\n' ' ')
arg=$(grep "\[arg-type\]" said | cut -d: -f2 | tr '\n' ' ')
if [ "$misc/$arg" != "13 14 /21 " ]; then
    echo "changed: the head of this file says what was seen in 2026"; exit 1
fi
