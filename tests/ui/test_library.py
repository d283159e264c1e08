"""The library shows what the disk holds, gives away what it may, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from studio import events
from studio.events import Event
from studio.pipelines.errors import StudioError, UsageError
from studio.store import Store
from studio.ui import (
    kept,
    library,
    library_export,
    library_jobs,
    library_notes,
    library_push,
    library_thumbs,
    library_trash,
    library_view,
)
from studio.ui.jobs import Queue
from studio.ui.library_pictures import caption, pictures
from tests import runs as toy
from tests.ui import library_runs

SECRET = "hf_" + "Ab1" * 12


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_the_list_says_what_each_run_is_and_how_far(runs: Path):
    library_runs.run(runs, "done-one")
    open_one = library_runs.run(runs, "open-one", finished=False)
    (runs / "broken").mkdir()
    (runs / "broken" / "run.toml").write_text("not = = toml")
    states = {entry.name: entry.state() for entry in library.entries(runs)}
    assert states == {"done-one": "done", "open-one": "running", "broken": "damaged"}
    later = {entry.name: entry.state(time.time() + 3600) for entry in library.entries(runs)}
    assert later["open-one"] == "unfinished"
    events.append(open_one.folder / "events.jsonl", Event("train", 3, event="failed", fields={"message": "x"}))
    assert {e.name: (e.state(), e.step) for e in library.entries(runs)}["open-one"] == ("failed", 3)
    assert {e.name: e.state() for e in library.entries(runs, {"open-one": ("waiting", "")})}["open-one"] == "waiting"


def test_a_tile_and_the_open_runs_heading_say_the_same_also_during_an_evaluation(runs: Path):
    made = library_runs.run(runs, "one")
    queue = Queue(runs)
    queue.command(["evaluate", str(made.folder), "--json"], made.folder)
    ((_, words),) = library_view.listing(runs, "", 1).tiles
    assert words == "one \N{MIDDLE DOT} done, evaluation waiting"
    assert library_view.about(runs, "one").startswith("### one: done, evaluation waiting\n")
    assert library_view.listing(runs, "evaluation", 1).names == ["one"]
    queue.cancel(queue.jobs()[0].id)
    assert library_view.listing(runs, "", 1).tiles[0][1].endswith("done")


def test_what_never_began_says_so_and_goes_to_the_trash_in_one_go(runs: Path):
    library_runs.run(runs, "made", finished=False)
    queue, data = Queue(runs), runs.parent / "data"
    cancelled = queue.submit(toy.config(data, runs, "cancelled"))
    queue.submit(toy.config(data, runs, "waits"))
    queue.cancel(cancelled.id)
    Store(runs).create(toy.config(data, runs, "old"))
    Store(runs).create(toy.config(data, runs, "copied"))
    library_runs.picture(runs / "copied" / "samples" / "000001-00.png")
    for name in ("cancelled", "waits", "old", "copied"):
        os.utime(runs / name / "run.toml", (1, 1))
    Store(runs).create(toy.config(data, runs, "just-made"))
    states = {entry.name: entry.state() for entry in library.entries(runs, library_jobs.told(runs))}
    assert states["cancelled"] == "cancelled before it began"
    assert (states["old"], states["waits"]) == (library.NEVER, "waiting")
    assert sorted(library_view.listing(runs, "", 1).idle) == ["cancelled", "old"]
    assert (sorted(library_jobs.sweep(runs)[0]), library_jobs.sweep(runs)) == (["cancelled", "old"], ([], []))
    assert {entry.name for entry in library.entries(runs)} == {"made", "waits", "copied", "just-made"}
    assert {row.name for row in library_trash.thrown(runs)} == {"cancelled", "old"}


def test_opening_the_library_reads_the_runs_of_its_page_only(runs: Path):
    first = library_runs.run(runs, "r000", prompts=0)
    for number in range(1, 100):
        shutil.copytree(first.folder, runs / f"r{number:03}")
    library.read.cache_clear()
    found = library_view.listing(runs, "", 2)
    assert (found.number, found.pages, len(found.matches)) == (2, 5, 100)
    assert library.read.cache_info().misses == library_view.RUNS
    library_view.ahead(runs, found, wait=0).join()
    assert library.read.cache_info().misses == 100  # what a search looks through is read meanwhile
    assert library_view.listing(runs, "r0", 1).matches == found.matches


def test_what_a_browser_kept_may_be_anything():
    for found in (
        None,
        3,
        [],
        "x",
        {"run": 3, "n": "1", "runs": {"a": 1}, "tick": 1},
        {"n": float("nan"), "run": "y" * 999},
    ):
        assert kept.word(found, "run") == ""
        assert kept.words(found, "runs", 3) == []
        assert kept.whole(found, "n", 1, 9, 4) == 4
        assert kept.yes(found, "tick", True)
    assert kept.words({"runs": ["a", 3, "b", "c"]}, "runs", 2) == ["a", "b"]
    assert kept.gone(["a", "b", ""], ["b"], "choose another") == "a is not there any more: choose another."
    assert kept.gone(["b"], ["b"], "choose another") == ""


def test_the_list_agrees_with_the_run_itself(runs: Path):
    whole = library_runs.run(runs, "one")
    events.append(whole.folder / "events.jsonl", Event("train", 8, {"loss": 0.1}))  # gone on with, for more steps
    text = whole.config_file.read_text().replace("steps = 7", "steps = 70")
    whole.config_file.write_text(text)
    (entry,) = library.entries(runs)
    assert entry.state(time.time() + 3600) == whole.state() == "unfinished"
    assert (entry.trainer, entry.model, entry.steps) == ("dreambooth", "toy", 70)


def test_search_needs_every_word_anywhere(runs: Path):
    for name in ("cat-a", "cat-b", "dog-a"):
        library_runs.run(runs, name, finished=name != "cat-b")
    library_notes.write(library.run_of(runs, "dog-a"), "better than the Cat")
    found = library.entries(runs)
    assert {e.name for e in library.find(found, "cat")} == {"cat-a", "cat-b", "dog-a"}
    assert {e.name for e in library.find(found, "CAT done")} == {"cat-a", "dog-a"}
    assert library.find(found, "cat nowhere") == []
    assert library.find(found, "  ") == found


@pytest.mark.parametrize("count", [0, 1, 24, 25, 200])
def test_pages_hold_everything_once_and_none_is_missing(count: int):
    items, seen, pages = list(range(count)), [], 1
    for number in range(1, 12):
        part, at, pages = library.page(items, number, 24)
        seen += part if at == number else []
    assert seen == items
    assert pages == max(1, -(-count // 24))
    assert library.page(items, -5, 24)[1] == 1


def test_names_from_a_page_reach_no_other_folder(runs: Path):
    library_runs.run(runs, "one")
    outside = runs.parent / "secret"
    outside.mkdir()
    (outside / "run.toml").write_text("")
    (runs / "link").symlink_to(outside)
    for name in ("", "../secret", "..", str(outside), "link", "one/../../secret", ".trash", "none"):
        with pytest.raises(UsageError):
            library.run_of(runs, name)
    assert [entry.name for entry in library.entries(runs)] == ["one"]


def test_two_hundred_runs_are_listed_quickly_again(runs: Path):
    first = library_runs.run(runs, "r000")
    text, lines = first.config_file.read_text(), (first.folder / "events.jsonl").read_bytes()
    for number in range(1, 200):
        folder = runs / f"r{number:03}"
        folder.mkdir()
        (folder / "run.toml").write_text(text)
        (folder / "events.jsonl").write_bytes(lines)
    assert len(library.entries(runs)) == 200
    began = time.perf_counter()
    assert len(library.find(library.entries(runs), "done")) == 200
    assert time.perf_counter() - began < 1.0  # nothing is read twice: a tenth of that on an idle machine


def test_thumbs_are_small_made_once_and_made_anew_for_another_picture(runs: Path):
    made = library_runs.run(runs, "one")
    big = library_runs.picture(made.folder / "samples" / "000009-00.png", 1, side=700)
    assert library_thumbs.cover(made.folder) == big
    small = library_thumbs.thumb(big, runs)
    assert small is not None
    with Image.open(small) as file:
        assert max(file.size) == library_thumbs.SIDE
    at = small.stat().st_mtime_ns
    assert library_thumbs.thumb(big, runs) == small
    assert small.stat().st_mtime_ns == at
    library_runs.picture(big, 2, side=600)
    os.utime(big, ns=(1, 1))
    assert library_thumbs.thumb(big, runs) not in (small, None)
    big.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert library_thumbs.thumb(big, runs) is None
    assert library_thumbs.prune(runs, kept=1) == 1


def test_pictures_of_a_run_tell_their_step_prompt_and_seed_and_links_out_are_not_followed(runs: Path):
    made = library_runs.run(runs, "one", prompts=1)
    secret = library_runs.picture(runs.parent / "private.png")
    (made.folder / "samples" / "link.png").symlink_to(secret)
    said = {caption(path, made.folder) for path in pictures(made.folder)}
    assert said == {"a sks dog number 0, seed 7, step 7", "a sks dog number 0, seed 7, base model"}


def test_notes_are_kept_searched_and_hold_no_token(runs: Path):
    made = library_runs.run(runs, "one")
    library_notes.write(made, " the best so far \n")
    assert library_notes.read(made.folder) == "the best so far\n"
    with pytest.raises(UsageError, match="token"):
        library_notes.write(made, f"my token is {SECRET}")
    assert library_notes.read(made.folder) == "the best so far\n"
    library_notes.write(made, "")
    assert not (made.folder / library_notes.FILE).exists()


def test_a_deleted_run_comes_back_whole_under_a_free_name(runs: Path):
    made = library_runs.run(runs, "one")
    before = {p.relative_to(made.folder): p.read_bytes() for p in made.folder.rglob("*") if p.is_file()}
    key = library_trash.throw(runs, "one").key
    assert library.entries(runs) == []
    assert [row.name for row in library_trash.thrown(runs)] == ["one"]
    library_runs.run(runs, "one")
    name = library_trash.restore(runs, key)
    after = {p.relative_to(runs / name): p.read_bytes() for p in (runs / name).rglob("*") if p.is_file()}
    after.pop(Path(".lock"), None)
    assert name == "one-2"
    assert after == before
    assert Store(runs).open(name).config().run == name
    library_trash.throw(runs, "one")
    library_trash.throw(runs, name)
    assert library_trash.empty(runs) == 2
    assert library_trash.thrown(runs) == []


def test_a_run_at_work_is_not_deleted_and_keys_reach_no_other_folder(runs: Path):
    made = library_runs.run(runs, "one")
    with made.alone(), pytest.raises(UsageError, match="stop it under Watch"):
        library_trash.throw(runs, "one")
    Queue(runs).resume(library_runs.run(runs, "two", finished=False).name)
    with pytest.raises(UsageError, match="waits or is being trained"):
        library_trash.throw(runs, "two")
    for key in ("", "..", "../one", "one", "one~1"):
        with pytest.raises(UsageError):
            library_trash.restore(runs, key)
    assert {entry.name for entry in library.entries(runs)} == {"one", "two"}


def test_the_export_holds_what_was_asked_for_byte_for_byte_and_a_card_without_paths(runs: Path):
    made = library_runs.run(runs, "my-dog")
    out = library_export.pack(made, library_export.offered(made), runs)
    with zipfile.ZipFile(out) as file:
        assert file.testzip() is None
        names = set(file.namelist())
        card = file.read("my-dog/README.md").decode()
        adapter = file.read("my-dog/adapter.safetensors")
    assert names == {f"my-dog/{name}" for name in ("adapter.safetensors", "my-dog.kohya.safetensors", "README.md")}
    assert adapter == (made.folder / "adapter.safetensors").read_bytes()
    assert card.startswith("---\n")
    assert "sks dog" in card
    assert str(runs.parent) not in card
    assert not (made.folder / "README.md").exists()


def test_what_a_run_does_not_have_is_refused_with_what_makes_it(runs: Path):
    made = library_runs.run(runs, "one", finished=False)
    for name, remedy in (("diffusers", "resume"), ("kohya", "diffusers"), ("report", "Evaluate")):
        with pytest.raises(UsageError, match=remedy):
            library_export.pack(made, [name], runs)
    with pytest.raises(UsageError, match="choose"):
        library_export.pack(made, [], runs)


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that an upload of small files uses; other tokens than `good` are refused."""

    good, commits = SECRET, list[bytes]()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        allowed = self.headers["Authorization"] == f"Bearer {self.good}"
        said = self.headers["Authorization"]
        answer: dict[str, object] = {"url": f"http://{self.headers['Host']}/me/dog", "error": f"no, {said}"}
        if "/preupload/" in self.path:
            files = [row["path"] for row in json.loads(body)["files"]]
            answer["files"] = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
        elif "/commit/" in self.path:
            self.commits.append(body)
            answer |= {"commitUrl": f"{answer['url']}/commit/1", "commitOid": "1", "pullRequestUrl": None}
        content = json.dumps(answer).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    Hub.commits.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_push_uploads_the_export_and_the_token_stays_nowhere(runs: Path, hub: str):
    made = library_runs.run(runs, "one")
    library_push.push(made, ["diffusers", "card"], "me/dog", SECRET, endpoint=hub)
    (commit,) = Hub.commits
    rows = [json.loads(line) for line in commit.splitlines()]
    assert {row["value"]["path"] for row in rows if row["key"] == "file"} == {"adapter.safetensors", "README.md"}
    assert not [p for p in runs.parent.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_a_refused_push_says_what_to_do_and_not_the_token(runs: Path, hub: str):
    made, other = library_runs.run(runs, "one"), "hf_" + "Zz9" * 12
    for repo, token, words in (
        ("me/dog", other, "write access"),
        ("dog", SECRET, "USER/NAME"),
        ("me/dog", "  ", "give a token"),
    ):
        with pytest.raises(StudioError, match=words) as refused:
            library_push.push(made, ["card"], repo, token, endpoint=hub)
        assert token.strip() == "" or token not in str(refused.value)
    assert Hub.commits == []


def test_a_page_of_the_library_has_a_tile_for_every_run_and_says_what_to_do_when_empty(runs: Path):
    runs.mkdir()
    assert "Train" in library_view.listing(runs, "", 1).label
    for number in range(3):
        library_runs.run(runs, f"run-{number}", prompts=number)
    found = library_view.listing(runs, "", 9)
    assert (sorted(found.names), found.number, found.label) == (["run-0", "run-1", "run-2"], 1, "3 runs, page 1 of 1")
    assert all(Path(file).suffix == ".jpg" and Path(file).is_file() for file, _ in found.tiles)
    assert "No run of 3 matches `elephant`" in library_view.listing(runs, "elephant", 1).label
    one = library_view.look(runs, "run-2", 1)
    assert len(one.tiles) == len(one.files) == 4
    assert [kind for _, kind in one.kinds] == ["diffusers", "kohya", "card"]
    assert one.about.startswith("### run-2: done")
