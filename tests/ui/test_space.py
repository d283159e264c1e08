"""The page as a Space: what its environment says, who is signed in, and `app.py` under a Space's variables."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from studio.pipelines.errors import UsageError
from studio.ui.space import here, on_gpu, signed_in, token

if TYPE_CHECKING:
    from tests.ui.conftest import Start

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "ana/studio", "OAUTH_CLIENT_ID": "id", "OAUTH_CLIENT_SECRET": "word"}


def request(name: str, expires: float) -> Any:
    """A request of a signed-in user, as gradio hands it over."""
    info = {"userinfo": {"preferred_username": name}, "expires_at": expires, "access_token": f"hf_of_{name}"}
    return SimpleNamespace(request=SimpleNamespace(scope={"session": {"oauth_info": info}}))


def test_elsewhere_there_is_no_space() -> None:
    assert here({}) is None
    assert here({"SPACE_ID": "ana/studio"}) is None


def test_persistent_storage_is_used_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    kept, lost = here(SPACE, tmp_path / "data"), here(SPACE, tmp_path / "none")
    assert kept is not None
    assert lost is not None
    assert kept.lasting
    assert kept.base == tmp_path / "data" / "studio"
    assert not kept.notes()
    assert not lost.lasting
    assert "restart" in " ".join(lost.notes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"], "looking makes nothing"


def test_strangers_look_and_signed_in_users_write(tmp_path: Path) -> None:
    space = here(SPACE, tmp_path)
    assert space is not None
    stranger, ana = space.where(None), space.where(request("Ana", time.time() + 60))
    assert not stranger.writable
    assert ana.writable
    assert ana.owner == "Ana"
    assert ana.runs == space.base / "users" / "ana" / "runs"
    assert signed_in(request("ana", time.time() - 1)) == "", "an old sign-in is none"
    assert signed_in(SimpleNamespace(request=SimpleNamespace(scope={}))) == ""
    assert token(request("ana", time.time() + 60)) == "hf_of_ana"
    assert token(request("ana", time.time() - 1)) == token(None) == ""


def test_only_named_users_write_where_some_are_named(tmp_path: Path) -> None:
    space = here({**SPACE, "STUDIO_USERS": "Ana, cy"}, tmp_path)
    assert space is not None
    assert space.place("ana").writable
    assert not space.place("ben").writable
    ben, stranger = space.place("ben"), space.place("")
    assert replace(ben, closed="") == replace(stranger, closed="")
    assert "names (STUDIO_USERS)" in ben.closed
    assert "sign in" in stranger.closed


def test_zero_gpu_draws_but_does_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = here({**SPACE, "SPACES_ZERO_GPU": "true"}, tmp_path)
    assert space is not None
    with pytest.raises(UsageError, match=r"ZeroGPU.*duplicate the Space"):
        space.place("ana").may_train()
    space.place("ana").may_write()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    asked = []

    def gpu(duration: int) -> Any:
        asked.append(duration)
        return lambda function: function

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.import_module", lambda name: SimpleNamespace(GPU=gpu))
    assert on_gpu(30)(len)("abc") == 3
    assert asked == [30]


def test_without_zero_gpu_a_function_stays_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert on_gpu()(len) is len


@pytest.mark.enable_socket
def test_app_starts_with_the_variables_of_a_space(start: Start, page: Any) -> None:
    environment = {**SPACE, "SPACE_HOST": "127.0.0.1", "GRADIO_SERVER_NAME": "127.0.0.1", "SPACES_ZERO_GPU": "true"}
    environment |= {"OAUTH_SCOPES": "openid profile", "OPENID_PROVIDER_URL": "https://hub.invalid"}
    found = start(program=(str(ROOT / "app.py"),), environment=environment)
    page.goto(found.address)
    page.locator("#page-sign-in").wait_for()
    notes = " ".join(page.get_by_role("note").all_inner_texts())
    assert "No persistent storage" in notes
    assert "ZeroGPU" in notes
    page.locator("#train-start:disabled").wait_for()
    assert "training cannot run here" in page.locator("#train-status").inner_text()
    assert "hot-reload" not in (found.runs.parent / "server.log").read_text()


def test_a_space_installs_what_the_project_needs() -> None:
    listed = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"}
    project = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [", 1)[1].split("]", 1)[0]
    needed = {line.strip().strip('",') for line in project.splitlines() if line.strip()}
    assert listed == {row.replace("gradio>", "gradio[oauth]>") for row in needed}
