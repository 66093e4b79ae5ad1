"""Limits of tokens over HTTP: the request's, the server's, half the context; and what does not fit, with both figures.

The model repeats itself without end, so that every answer is as long as it may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.real_server import MARKS, RealServer, real_server, refusal
from support.tiny_model import TinyOptions, scripted_model

pytestmark = MARKS

CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = TinyOptions(context_length=CONTEXT)
    return scripted_model(tmp_path_factory.mktemp("models") / "endless", "abcdefghijklmnop", options, repeat=True)


@pytest.fixture(scope="module")
def server(folder: Any) -> Iterator[RealServer]:
    with real_server(folder) as started:
        yield started


@pytest.fixture(scope="module")
def limited(folder: Any) -> Iterator[RealServer]:
    with real_server(folder, words=("--max-tokens", "40")) as started:
        yield started


def ids(count: int) -> list[int]:
    return [70] * count


def length(answer: Any) -> tuple[int, str]:
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["usage"]["completion_tokens"], told["choices"][0]["finish_reason"]


def test_half_the_context_where_nobody_says_how_much(server: RealServer) -> None:
    assert length(server.chat()) == (CONTEXT // 2, "length")
    assert length(server.complete(prompt=ids(5))) == (CONTEXT // 2, "length")


@pytest.mark.parametrize("prompt", [CONTEXT // 2, CONTEXT // 2 + 1, CONTEXT - 1])
def test_what_is_left_of_the_context_where_that_is_less(server: RealServer, prompt: int) -> None:
    assert length(server.complete(prompt=ids(prompt))) == (min(CONTEXT // 2, CONTEXT - prompt), "length")


def test_null_is_not_given(server: RealServer) -> None:
    assert length(server.chat(max_tokens=None, max_completion_tokens=None)) == (CONTEXT // 2, "length")


@pytest.mark.parametrize("limit", [1, 7, CONTEXT - 25])
def test_the_requests_limit_counts(server: RealServer, limit: int) -> None:
    assert length(server.chat(max_tokens=limit)) == (limit, "length")
    assert length(server.chat(max_completion_tokens=limit)) == (limit, "length")
    assert length(server.complete(max_tokens=limit)) == (limit, "length")


def test_the_newer_name_wins(server: RealServer) -> None:
    assert length(server.chat(max_completion_tokens=3, max_tokens=9)) == (3, "length")


def test_the_other_apis_limit_counts(server: RealServer) -> None:
    told = server.post("/v1/responses", input="hi", max_output_tokens=5).json()
    assert (told["usage"]["output_tokens"], told["incomplete_details"]["reason"]) == (5, "max_output_tokens")
    told = server.post("/v1/messages", messages=[{"role": "user", "content": "hi"}], max_tokens=6).json()
    assert (told["usage"]["output_tokens"], told["stop_reason"]) == (6, "max_tokens")


def test_prompt_and_limit_may_fill_the_context_to_the_last_token(server: RealServer) -> None:
    assert length(server.complete(prompt=ids(40), max_tokens=CONTEXT - 40)) == (CONTEXT - 40, "length")


@pytest.mark.parametrize("stream", [False, True])
def test_one_token_more_is_refused_with_both_figures(server: RealServer, stream: bool) -> None:
    error = refusal(server.complete(prompt=ids(40), max_tokens=CONTEXT - 40 + 1, stream=stream))
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    assert {"40", "25", "64"} <= set(re.findall(r"\d+", error["message"]))


@pytest.mark.parametrize("prompt", [CONTEXT, CONTEXT + 1, 10_000])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_figures(server: RealServer, prompt: int) -> None:
    error = refusal(server.complete(prompt=ids(prompt)))
    assert error["code"] == "context_length_exceeded"
    assert {str(prompt), "64"} <= set(re.findall(r"\d+", error["message"]))


def test_every_api_refuses_what_does_not_fit(server: RealServer) -> None:
    long = "long " * CONTEXT
    messages = [{"role": "user", "content": long}]
    for answer in (server.chat(messages=messages), server.post("/v1/responses", input=long)):
        assert refusal(answer)["code"] == "context_length_exceeded"
    answer = server.post("/v1/messages", messages=messages, max_tokens=1)
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert "64" in answer.json()["error"]["message"]


@pytest.mark.parametrize("limit", [0, -1, 2**63, 10**30, 1.5, "7", True, [7]], ids=repr)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_what_is_no_limit_is_refused_by_name(server: RealServer, name: str, limit: Any) -> None:
    error = refusal(server.chat(**{name: limit}))
    assert name in error["message"] or error["code"] == "context_length_exceeded"


def test_usage_is_the_prompts_true_length(server: RealServer) -> None:
    told = server.chat(max_tokens=1).json()["usage"]
    counted = server.post("/v1/messages/count_tokens", messages=[{"role": "user", "content": "hi"}]).json()
    assert told["prompt_tokens"] == counted["input_tokens"]
    assert told["total_tokens"] == told["prompt_tokens"] + 1
    assert server.complete(prompt=ids(17), max_tokens=2).json()["usage"]["prompt_tokens"] == 17


def test_the_servers_limit_counts_where_the_request_has_none(limited: RealServer) -> None:
    assert length(limited.complete(prompt=ids(10))) == (40, "length")
    assert length(limited.complete(prompt=ids(10), max_tokens=50)) == (50, "length")
    assert length(limited.complete(prompt=ids(10), max_tokens=2)) == (2, "length")
