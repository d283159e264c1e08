"""Who reaches the page and what it answers: addresses, passwords, files by path, foreign hosts, sizes, rates."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from studio.pipelines.errors import DataError, UsageError
from studio.ui import safety
from studio.ui.guard import Guard, Rules
from studio.ui.place import guest, home
from studio.ui.safety import TRIES, Bucket, Door, check_address, is_local, private, users
from studio.ui.words import shown


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert is_local(host)
    check_address(host, 7860, protected=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "studio.example", "127.0.0.1.example"])
def test_other_addresses_need_a_password_and_the_refusal_says_the_command(host: str) -> None:
    with pytest.raises(UsageError, match=rf"studio ui --host {host} --port 7861 --auth users.txt"):
        check_address(host, 7861, protected=False)
    check_address(host, 7861, protected=True)


def test_users_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text("# who may come in\nana:correct:horse\n\nben:battery-staple\n")
    assert users(file, {"STUDIO_AUTH": "x:ignored-then"}) == {"ana": "correct:horse", "ben": "battery-staple"}
    assert users(None, {"STUDIO_AUTH": "cy:long-enough"}) == {"cy": "long-enough"}
    assert users(None, {}) == {}


@pytest.mark.parametrize(
    ("text", "said"), [("ana", "should be NAME:PASSWORD"), (":12345678", "should be"), ("ana:s3cret", "8 characters")]
)
def test_a_bad_line_is_named_without_its_password(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "users.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        users(file, {})
    assert "s3cret" not in str(error.value)


def test_a_password_in_the_command_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="takes a file") as error:
        users(Path("ana:s3cret-word"), {})
    assert "s3cret" not in str(error.value)


def test_the_door_opens_for_the_right_word_and_closes_after_wrong_ones() -> None:
    door = Door({"ana": "right-word"})
    assert door("ana", "right-word")
    assert not door("ben", "right-word")
    assert not door("ben", "")
    assert not any(door("ana", "wrong") for _ in range(TRIES))
    assert not door("ana", "right-word"), "after that many tries even the right word waits"
    assert {name for _, name in door.wrong} <= {"ana"}, "names nobody has are not kept"
    said = safety.WHO.set("192.0.2.7")
    try:
        assert door("ana", "right-word"), "whoever tried from elsewhere keeps nobody out"
    finally:
        safety.WHO.reset(said)


def test_a_bucket_lets_its_rate_through() -> None:
    bucket = Bucket(burst=3, rate=2)
    assert [bucket.takes("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.takes("b", 0.0)
    assert [bucket.takes("a", 1.0) for _ in range(3)] == [True, True, False]


def test_private_folders_are_nobody_elses(tmp_path: Path) -> None:
    assert private(tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def ask(rules: Rules, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of a request through the guard, before an application that reads the body and says yes."""
    sent: list[MutableMapping[str, Any]] = []
    parts = [{"type": "http.request", "body": body[i : i + 4], "more_body": True} for i in range(0, len(body), 4)]
    parts.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> MutableMapping[str, Any]:
        return parts.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            pass
        cut = message["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 499 if cut else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})

    fields = {"host": "127.0.0.1:7860", **{key.replace("_", "-"): value for key, value in headers.items()}}
    scope = {
        "type": "http",
        "path": path,
        "method": "POST",
        "client": ("10.0.0.1", 1),
        "headers": [(key.encode(), value.encode()) for key, value in fields.items()],
    }
    asyncio.run(Guard(app, rules)(scope, receive, send))
    return sent[0]["status"], {key.decode(): value.decode() for key, value in sent[0]["headers"]}


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(private(tmp_path / "cache"), upload=16)


def test_files_are_served_from_the_cache_only(rules: Rules, tmp_path: Path) -> None:
    (rules.cache / "a.png").touch()
    (tmp_path / "run.toml").touch()
    (rules.cache / "out").symlink_to(tmp_path)
    assert ask(rules, f"/gradio_api/file={rules.cache}/a.png")[0] == 200
    for path in (
        f"{tmp_path}/run.toml",
        "/etc/passwd",
        f"{rules.cache}/../run.toml",
        f"{rules.cache}/out/run.toml",
        f"{rules.cache}/%2e%2e/run.toml",
        "run.toml",
        "http://127.0.0.1/x",
        f"file://{rules.cache}/a.png",
    ):
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/file/"):
            assert ask(rules, prefix + path)[0] == 403, path
    assert ask(rules, "/gradio_api/proxy=http://10.0.0.1/")[0] == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:7860", 200), ("[::1]:7860", 200), ("evil.example", 421), ("", 421), ("127.0.0.1.evil.example", 421)],
)
def test_a_local_page_answers_to_its_own_names(rules: Rules, host: str, status: int) -> None:
    assert ask(rules, "/", host=host)[0] == status


def test_uploads_are_cut_off_whether_they_tell_their_size_or_not(rules: Rules) -> None:
    assert ask(rules, "/gradio_api/upload", b"x" * 16)[0] == 200
    assert ask(rules, "/gradio_api/upload", b"", content_length="17")[0] == 413
    assert ask(rules, "/gradio_api/upload", b"", content_length="-1")[0] == 413
    assert ask(rules, "/gradio_api/upload", b"x" * 17)[0] == 499


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost:7860", 200), ("http://localhost:1", 403), ("http://localhost", 403), ("null", 403),
     ("http://evil.example:7860", 403), ("http://localhost:7860.evil.example", 403)],
)  # fmt: skip
def test_another_page_may_not_send_anything_and_another_port_is_another_page(
    rules: Rules, origin: str, status: int
) -> None:
    assert ask(rules, "/gradio_api/upload", b"x", host="localhost:7860", origin=origin)[0] == status


@pytest.mark.parametrize(
    ("host", "forwarded", "origin", "status"),
    [
        ("studio.example", "", "https://studio.example", 200),
        ("studio.example", "", "https://studio.example:8443", 200),  # a proxy that hands on the bare name
        ("127.0.0.1:7860", "studio.example", "https://studio.example", 200),
        ("127.0.0.1:7860", "studio.example:8443", "https://studio.example:8443", 200),
        ("127.0.0.1:7860", "studio.example:8443", "https://studio.example:9000", 403),
        ("studio.example:8443", "", "https://studio.example:9000", 403),
        ("studio.example", "", "https://studio.example.evil", 403),
    ],
)
def test_behind_a_proxy_the_page_knows_its_own_name(
    rules: Rules, host: str, forwarded: str, origin: str, status: int
) -> None:
    rules.local = False
    more = {"x_forwarded_host": forwarded} if forwarded else {}
    assert ask(rules, "/gradio_api/upload", b"x", host=host, origin=origin, **more)[0] == status


def test_too_many_requests_are_told_so(rules: Rules) -> None:
    rules.bucket = Bucket(burst=2, rate=0)
    assert [ask(rules, "/")[0] for _ in range(3)] == [200, 200, 429]


def test_every_answer_forbids_other_origins(rules: Rules) -> None:
    for path in ("/", "/gradio_api/file=/etc/passwd"):
        headers = ask(rules, path)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]


def test_a_place_permits_its_own_folders_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to("/etc")
    place = home(tmp_path / "runs", (tmp_path / "data",))
    assert place.permitted(str(tmp_path / "data" / "cat")) == tmp_path / "data" / "cat"
    assert place.permitted(place.runs / "a")
    for path in (
        "/etc/passwd",
        tmp_path / "data" / ".." / "x",
        tmp_path / "data" / "link" / "passwd",
        "",
        "a\0b",
        "~x/",
    ):
        with pytest.raises(UsageError, match="studio ui --data"):
            place.permitted(path)


def test_users_of_a_space_do_not_reach_each_other(tmp_path: Path) -> None:
    ana, ben, stranger = (guest(tmp_path, name, writable=True, zero_gpu=False) for name in ("Ana", "ben", ""))
    for mine, other in ((ana, ben), (ben, ana), (stranger, ana)):
        assert mine.permitted(mine.uploads / "cat.png")
        for path in (other.runs / "x", other.uploads, tmp_path, mine.runs / ".." / ".." / other.owner):
            with pytest.raises(UsageError, match="not yours"):
                mine.permitted(path)
    ana.may_train()
    with pytest.raises(UsageError, match="sign in"):
        stranger.may_train()
    for name in ("..", "a/b", ".queue", "a b", "-x"):
        with pytest.raises(UsageError, match="cannot be a folder"):
            guest(tmp_path, name, writable=True, zero_gpu=False)


def test_errors_are_one_sentence_without_secrets(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuv")
    assert shown(DataError("data: no pictures\n in x; drop some")) == "Data: no pictures in x; drop some."
    said = shown(KeyError("hf_abcdefghijklmnopqrstuv"))
    assert "hf_abc" not in said
    assert "bug report" in said
    assert "Traceback" not in said
    assert "memory ran out" in shown(MemoryError()).lower()
    assert "reload" in shown(FileNotFoundError(2, "no", "/x/run.toml"))
