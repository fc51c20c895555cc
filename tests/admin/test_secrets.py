"""No secret is shown: not the environment's, not in an address, not after a word that says that one follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from attrs import evolve

from rrmaster.admin.metrics import exposition
from rrmaster.admin.secrets import Secrets
from rrmaster.admin.source import MasterClient
from rrmaster.config.settings import Settings
from rrmaster.status.model import from_json, to_json
from tests.control.serving import serving
from tests.status.snapshots import a_snapshot, a_worker

SECRET = "hunter2-of-the-db"


@pytest.mark.parametrize(
    "environ",
    [
        {"SECRET_KEY": SECRET},
        {"DB_PASSWORD": SECRET},
        {"aws_secret_access_key": SECRET},
        {"SENTRY_DSN": SECRET},
        {"STRIPE_API_KEY": SECRET},
        {"GITHUB_TOKEN": SECRET},
        {"PGPASS": "x", "MYSQL_PWD": SECRET},
        {"DATABASE_URL": f"postgresql+psycopg://shop:{SECRET}@db:5432/shop"},
        {"REDIS_URL": f"redis://:{SECRET}@cache/0"},
    ],
)
def test_a_value_of_the_environment_that_is_a_key_is_masked_wherever_it_stands(environ: dict[str, str]) -> None:
    text = f"OperationalError: cannot log in with {SECRET}!\nValueError: {SECRET}"
    assert Secrets(environ).masked(text) == "OperationalError: cannot log in with ***!\nValueError: ***"


@pytest.mark.parametrize(
    "environ",
    [{"GREETING": "hello there"}, {"MONKEY": "hello there"}, {"TOKEN_FILE": "/run/hello"}, {"KEY": "there"}, {}],
)
def test_what_is_no_secret_stays(environ: dict[str, str]) -> None:
    text = "worker 3 (pid 4711): serving -> gone, hello there, /run/hello: see http://127.0.0.1:8000/a?b=c at 12:30:01"
    assert Secrets(environ).masked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgres://shop:{SECRET}@db/shop is down", "postgres://shop:***@db/shop is down"),
        ("amqp://u:p/w:1@host", "amqp://u:***@host"),
        ("redis://:p@ss@host/0, http://u:p@other/?m=a@b", "redis://:***@host/0, http://u:***@other/?m=a@b"),
        ("redis://:a@one,redis://:b@two", "redis://:***@one,redis://:***@two"),
        (f"server.py --password={SECRET} --verbose", "server.py --password=*** --verbose"),
        (f"connect(host='db', password='{SECRET}')", "connect(host='db', password='***')"),
        (f'{{"api_key": "{SECRET}", "n": 1}}', '{"api_key": "***", "n": 1}'),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        (f"GET /?access_token={SECRET}&x=1", "GET /?access_token=***&x=1"),
    ],
)
def test_a_secret_that_its_surroundings_betray_is_masked(text: str, shown: str) -> None:
    assert Secrets({}).masked(text) == shown


def test_the_file_of_variables_is_read_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    secrets = Secrets({}, str(file))
    file.write_text(f"# SECRET_KEY=nothing\nexport SECRET_KEY='{SECRET}'\nGREETING=hello there\n")
    secrets.refresh()
    assert secrets.masked(f"{SECRET}, hello there") == "***, hello there"
    file.unlink()
    secrets.refresh()
    assert secrets.masked(SECRET) == "***", "the workers still have it"


def test_a_secret_of_the_settings_and_of_the_masters_environment_is_masked(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHOP_KEY=of-the-file\n")
    secrets = Secrets({})
    settings = {
        "arguments": ["--api-key", SECRET, "--cache", "redis://:of-the-cache@h"],
        "env_file": ".env",
        "window": 8,
    }
    secrets.learn(settings, str(tmp_path), {"DB_PASSWORD": "of-the-master"})
    secrets.learn({"arguments": ["--api-key", "of-the-next-code"]})
    text = f"I try {SECRET}, of-the-cache, of-the-file, of-the-master and of-the-next-code"
    assert secrets.masked(text) == "I try ***, ***, ***, *** and ***"


async def test_a_client_of_the_master_learns_its_secrets_before_it_asks_and_after_a_reload(tmp_path: Path) -> None:
    def with_key(key: str) -> Settings:
        return Settings("server.py", arguments=("--api-key", key))

    async with serving(tmp_path) as served:
        client = MasterClient(str(tmp_path / "control.sock"))
        served.operator.settings = with_key(SECRET)
        served.prints(0, f"I have {SECRET}")
        [entry] = await trio.to_thread.run_sync(client.entries, "logs", 10)
        assert entry["text"] == "I have ***"
        served.operator.settings = with_key("another-key")
        served.operator.snapshot = evolve(served.operator.snapshot, generation=2, name="another-key")
        assert (await trio.to_thread.run_sync(client.status)).name == "***"
        assert client._kept is not None
        client._kept.close()


def test_no_text_of_a_snapshot_and_no_metric_has_it() -> None:
    told = evolve(
        a_snapshot(a_worker(0, last_exit=f"said {SECRET}")), application=f"a:b {SECRET}", refused=SECRET, name=SECRET
    )
    masked = from_json(Secrets({"SECRET_KEY": SECRET}).masked(to_json(told)))
    assert SECRET not in str(to_json(masked))
    assert SECRET not in exposition(masked, "")[0].decode()
    assert masked.workers[0].last_exit == "said ***"
    assert masked.accepted == told.accepted


def test_the_object_shows_no_secret_itself() -> None:
    assert SECRET not in repr(Secrets({"SECRET_KEY": SECRET}, own=(SECRET,)))
