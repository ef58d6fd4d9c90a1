"""`carry keys`: what it prints, and what it writes."""

import json
import stat
from pathlib import Path

import pytest

from service.keys_file import hash_of_secret, owner_of_hash, read_keys
from tests.conftest import Run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("CARRY_API_KEYS_FILE", str(path))
    return path


def secret_from(result: tuple[int, str, str]) -> str:
    """The secret is the only line, so that a script can read it."""
    status, out, err = result
    assert (status, err) == (0, "")
    [secret] = out.splitlines()
    return secret


def test_a_new_key_prints_its_secret_and_writes_only_its_hash(carry: Run, file: Path) -> None:
    first = secret_from(carry("keys", "new", "app"))
    limits = ("--steps-per-minute", "600", "--queue-share", "0.5", "--sessions", "3", "--stored-bytes", "10000")
    second = secret_from(
        carry("keys", "new", "ops", "--scope", "admin", "--scope", "metrics", "--model", "text", *limits)
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first.startswith("carry_")
    assert len(first) >= len("carry_") + 43  # 32 random bytes
    assert first != second
    assert first not in file.read_text()
    app, ops = read_keys(file)
    assert (app.name, app.sha256, app.scopes) == ("app", (hash_of_secret(first),), frozenset({"use"}))
    assert (ops.scopes, ops.models) == (frozenset({"admin", "metrics"}), frozenset({"text"}))
    assert ops.sha256 == (hash_of_secret(second),)
    assert ops.limits.model_dump() == {
        "steps_per_minute": 600,
        "queue_share": 0.5,
        "sessions": 3,
        "stored_bytes": 10_000,
    }
    status, out, _ = carry("keys", "list")
    assert status == 0
    assert out.splitlines() == [
        "app  scopes: use; models: all",
        "ops  scopes: admin, metrics; models: text; steps_per_minute: 600; queue_share: 0.5; sessions: 3; "
        "stored_bytes: 10000",
    ]


def test_a_changed_secret_keeps_the_sessions_and_the_old_one_is_valid_until_it_is_removed(
    carry: Run, file: Path
) -> None:
    first = secret_from(carry("keys", "new", "app"))
    secret_from(carry("keys", "new", "other"))
    owner = owner_of_hash(hash_of_secret(first))
    second = secret_from(carry("keys", "rotate", "app"))
    [app, other] = read_keys(file)
    assert app.sha256 == (hash_of_secret(first), hash_of_secret(second))
    assert app.store_owner == owner
    assert "2 secrets" in carry("keys", "list")[1]
    assert carry("keys", "remove", "app", "--old") == (0, "", "")
    [app, same] = read_keys(file)
    assert (app.sha256, app.store_owner, same) == ((hash_of_secret(second),), owner, other)
    third = secret_from(carry("keys", "rotate", "app"))
    assert read_keys(file)[0].sha256 == (hash_of_secret(second), hash_of_secret(third))
    assert read_keys(file)[0].store_owner == owner
    assert carry("keys", "remove", "app") == (0, "", "")
    assert read_keys(file) == (other,)


def test_without_a_file_the_entry_is_printed(carry: Run) -> None:
    status, secret, entry = carry("keys", "new", "app", "--scope", "metrics")
    assert status == 0
    printed = json.loads(entry[entry.index("\n{") :])
    assert printed == {"name": "app", "sha256": hash_of_secret(secret.strip()), "scopes": ["metrics"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new", "app"), "has a key app: `carry keys rotate app` gives it another secret"),
        (("new", "a b"), "name: String should match pattern"),
        (("new", "more", "--scope", "root"), "scopes.0: Input should be 'use', 'admin' or 'metrics'"),
        (("new", "more", "--queue-share", "2"), "limits.queue_share: Input should be less than or equal to 1"),
        (("rotate", "nobody"), "has no key nobody; its keys are: app"),
        (("remove", "nobody"), "has no key nobody; its keys are: app"),
        (("remove", "app", "--old"), "app has one secret only"),
        (("list", "--file", "none.json"), "none.json: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    carry: Run, file: Path, arguments: tuple[str, ...], message: str
) -> None:
    carry("keys", "new", "app")
    before = file.read_bytes()
    status, out, err = carry("keys", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert file.read_bytes() == before


def test_a_broken_file_is_not_written_to(carry: Run, file: Path) -> None:
    file.write_text("{")
    status, out, err = carry("keys", "new", "app")
    assert (status, out) == (2, "")
    assert "is not JSON" in err
    assert file.read_text() == "{"


def test_a_verb_without_a_file_asks_for_one(carry: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARRY_API_KEYS_FILE", raising=False)
    status, _, err = carry("keys", "list")
    assert status == 2
    assert "--file, or CARRY_API_KEYS_FILE" in err
