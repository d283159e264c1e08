"""A judge over HTTP: what is sent, what is read, what happens when it does not answer. The server is a thread's."""

from __future__ import annotations

import base64
import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.pipelines import rewards_http, rewards_remote
from studio.pipelines.errors import ModelError
from studio.pipelines.rewards import Reward, Rewards, build
from tests.scorer_cases import CPU, pictures

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@dataclass
class Server:
    """A judge. replies: what it does next; the last one for good. asked: what it was sent."""

    address: str = ""
    replies: list[Reply] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)


def answer(body: Any, status: int = 200, **headers: str) -> Reply:
    """Sends a body: bytes as they are, anything else as JSON."""

    def reply(handler: BaseHTTPRequestHandler, given: dict[str, Any]) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(raw)

    return reply


def judged(handler: BaseHTTPRequestHandler, given: dict[str, Any]) -> None:
    """The mean of each picture's bytes, plus 1000 for each letter of its prompt."""
    shown = [np.asarray(Image.open(BytesIO(base64.b64decode(text)))) for text in given["pictures"]]
    scores = [float(x.mean()) + 1000 * len(text) for x, text in zip(shown, given["prompts"], strict=True)]
    answer({"scores": scores})(handler, given)


def dripping(handler: BaseHTTPRequestHandler, given: dict[str, Any]) -> None:
    """A byte now and then: each wait is short, all of them are not."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(30):
            handler.wfile.write(b" ")
            time.sleep(0.05)


@pytest.fixture
def server(socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """On this machine, on a free port."""
    monkeypatch.setattr(rewards_remote, "PAUSE", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mine = Server(replies=[judged])

    class Handler(BaseHTTPRequestHandler):
        """Does what is next."""

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Content-Type"] == "application/json"
            mine.asked.append(given)
            (mine.replies.pop(0) if len(mine.replies) > 1 else mine.replies[0])(self, given)

        def do_GET(self) -> None:
            mine.asked.append({"redirected": self.path})
            answer({"scores": [0.0] * 8})(self, {})

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mine.address = f"http://127.0.0.1:{http.server_port}/judge"
        yield mine
        http.shutdown()
        thread.join()


def reward(server: Server, **settings: Any) -> Reward:
    """A reward that asks the server."""
    return build(Rewards(terms=(f"2*{server.address}",), **settings), CPU, torch.float32)


def test_pictures_and_prompts_go_out_and_numbers_come_back_in_order(server: Server):
    images, prompts = pictures(18, 12), ["x" * i for i in range(18)]
    found = reward(server)(images, prompts)
    wanted = (images * 255).round().mean((1, 2, 3)) + 1000 * torch.arange(18)
    torch.testing.assert_close(found.value, 2 * wanted, rtol=1e-6, atol=1e-2)
    assert list(found.raw) == [server.address.removeprefix("http://")]
    assert [len(given["pictures"]) for given in server.asked] == [16, 2]
    assert set(server.asked[0]) == {"pictures", "prompts"}
    assert found.warnings == ()


def test_null_is_a_picture_that_cannot_be_scored(server: Server):
    server.replies = [answer({"scores": [1, None, 2.5], "more": "is ignored"})]
    found = reward(server)(pictures(3, 8), ["a"] * 3)
    assert found.good.tolist() == [True, False, True]
    assert found.value[found.good].tolist() == [2, 5]
    assert found.warnings == ()


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_judge_that_is_busy_is_asked_again(server: Server, status: int):
    server.replies = [answer(b"", status), answer(b"busy"), judged]
    found = reward(server, retries=2)(pictures(2, 8), ["a", "b"])
    assert found.good.all()
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]


@pytest.mark.parametrize(("status", "times"), [(503, 3), (404, 1), (401, 1)])
def test_tries_are_counted_and_some_states_do_not_change(server: Server, status: int, times: int):
    server.replies = [answer(b"", status)]
    found = reward(server, retries=2)(pictures(2, 8), ["a", "b"])
    assert not found.good.any()
    assert len(server.asked) == times
    (warning,) = found.warnings
    assert f"the judge at {server.address.removeprefix('http://')} did not answer (status {status})" in warning


@pytest.mark.parametrize("reply", [dripping, lambda handler, given: time.sleep(1.5)], ids=["drips", "is silent"])
def test_time_is_up_for_the_whole_answer(server: Server, reply: Reply):
    server.replies, start = [reply], time.monotonic()
    found = reward(server, timeout=0.2, retries=1)(pictures(2, 8), ["a", "b"])
    assert time.monotonic() - start < 1.2
    assert found.value.isnan().all()
    assert "nothing within 0.2 s" in found.warnings[0] or "timed out" in found.warnings[0]


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        [1, 2],
        {"score": [1, 2]},
        {"scores": 1},
        {"scores": [1]},
        {"scores": ["1", "2"]},
        {"scores": [True, False]},
        {"scores": [[1], [2]]},
        pickle.dumps({"scores": [1, 2]}),
        b"[" * 100_000,
        b" " * (rewards_http.LIMIT + 1),
    ],
    ids=lambda body: str(body)[:24],
)
def test_what_is_no_answer_is_no_number(server: Server, body: Any):
    server.replies = [answer(body)]
    found = reward(server, retries=0)(pictures(2, 8), ["a", "b"])
    assert found.value.isnan().all()
    assert len(found.warnings) == 1
    assert "\n" not in found.warnings[0]


def test_numbers_that_are_none_are_nan(server: Server):
    server.replies = [answer(b'{"scores": [NaN, Infinity, -1e999, 3]}')]
    assert reward(server)(pictures(4, 8), ["a"] * 4).good.tolist() == [False, False, False, True]


def test_pictures_go_nowhere_else(server: Server):
    server.replies = [answer(b"", 307, Location="/elsewhere"), answer(b"", 302, Location=f"{server.address}/elsewhere")]
    for _ in range(2):
        found = reward(server)(pictures(2, 8), ["a", "b"])
        assert "elsewhere, which is not followed" in found.warnings[0]
    assert len(server.asked) == 2
    assert not any("redirected" in given for given in server.asked)


def test_one_request_that_fails_costs_its_pictures_only(server: Server):
    server.replies = [answer(b"", 404), judged]
    found = reward(server)(pictures(18, 8), ["a"] * 18)
    assert found.good.tolist() == [False] * 16 + [True] * 2


def test_a_judge_that_is_gone_ends_the_run_after_three_calls_in_a_row(server: Server):
    one, gone = reward(server), answer(b"", 404)
    server.replies = [gone, gone, judged, gone, gone, gone]
    for good in (False, False, True, False, False):
        assert one(pictures(2, 8), ["a", "b"]).good.all() == good
    with pytest.raises(ModelError, match=r"did not answer 3 times in a row \(status 404\): start it") as caught:
        one(pictures(2, 8), ["a", "b"])
    assert "\n" not in str(caught.value)


def test_nobody_there_is_a_reason_too(server: Server):
    server.address = "http://127.0.0.1:1/judge"
    found = reward(server, retries=1)(pictures(2, 8), ["a", "b"])
    assert not found.good.any()
    assert "refused" in found.warnings[0]
