"""The instructions of each page of the documentation work, and a page that is wrong fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import PAGES, blocks, name
from tests.whole.story import Wrong, a_story

WITH_CODE = [page for page in PAGES if any(block.language != "text" for block in blocks(page.read_text()))]


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
async def test_what_a_page_says_is_so(page: Path, tmp_path: Path) -> None:
    async with a_story(tmp_path) as story:
        await story.tell(name(page), page.read_text())


HANDLER = """
```python
# shop.py
async def handler(stream):
    await stream.send_all(b"welcome")
```
"""

WRONG = {
    "a program that fails": ("```python\nassert 1 == 2\n```", "has ended with status 1"),
    "a program with a mistake": ("```python\ndef f(:\n```", "is no Python"),
    "a file that nothing uses": (HANDLER, "nothing uses shop.py"),
    "an option that is none": ("```console\nrrmaster --worker 4 shop:handler\n```", "no such option"),
    "a value that is none": ("```console\nrrmaster --workers many rrmaster.demo:echo\n```", "does not serve"),
    "an application that is none": (HANDLER + "```console\nrrmaster shop:handle\n```", "does not serve"),
    "a verb without a master": ("```console\n$ rrmaster status\n```", "has ended with status 1"),
    "a verb with a wrong option": ("```console\n$ rrmaster events --last 3\n```", "--last"),
    "a wrong option, parsed": ("<!-- parsed: why -->\n```console\nrrmaster --kerfile x a:b\n```", "no such option"),
    "a wrong verb, parsed": ("<!-- parsed: nobody is there -->\n```console\nrrmaster logs one\n```", "invalid int"),
    "a foreign command, parsed": ("<!-- parsed: why not -->\n```console\nls\n```", "is none of ours"),
    "another output": ("```console\n$ echo one two\none three\n```", "not in this order: 'one three'"),
    "another status": ("```console\n$ false\n$ echo $?\n0\n$ true\n$ (exit 3)\n$ echo $?\nthree\n```", "three"),
    "a failure passed over": ("```console\n$ (exit 3)\n$ true\n```", "status 3"),
    "an extra that is none": ("```console\npip install 'rrmaster[moon]'\n```", "no extra 'moon'"),
    "a setting that is none": ('```toml\nworker = 4\n```', "no setting 'worker'"),
    "a setting with a wrong value": ('```toml\n[tool.rrmaster]\nworkers = "many"\n```', "many"),
    "a container that starts nothing": ("```dockerfile\nFROM python\n```", "nothing is started"),
    "a container with a wrong option": ('```dockerfile\nCMD ["rrmaster", "--bindd", "x"]\n```', "no such option"),
    "what needs a machine of its own": ("```console\n$ systemctl reload shop\n```", "make the block text"),
    "a language nobody knows": ("```cobol\nSTOP RUN.\n```", "nothing is known of blocks of cobol"),
    "no language": ("```\nanything\n```", "no language"),
    "JSON that is none": ("```json\n{'a': 1}\n```", "is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("page", "complaint"), WRONG.values(), ids=WRONG)
async def test_a_page_that_is_wrong_fails(page: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=complaint):
        async with a_story(tmp_path) as story:
            await story.tell("page.md", page)
