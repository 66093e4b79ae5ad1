"""What answers tell of single tokens is true: their bytes, their log probabilities, and how many of them were thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.real_server import HI, MARKS, RealServer, real_server, said
from support.tiny_model import CHATML, TinyOptions, scripted_model, tiny_model

pytestmark = MARKS

THINKING = CHATML + "{# <think> </think> #}"
WITH_TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
THOUGHTS = ["<think>", "I see", ", so"]
ANSWER = ["Paris", " is\n", "nice"]


class Models:
    """The folders that are served, by what they say."""

    def __init__(self, folder: Path) -> None:
        tools = TinyOptions(
            context_length=2048, chat_template=WITH_TOOLS, tokenizer_config={"tool_parser_type": "json_tools"}
        )
        thinking = TinyOptions(chat_template=THINKING)
        self.thinker = scripted_model(folder / "thinker", "", thinking, pieces=[*THOUGHTS, "</think>", "\n\n", *ANSWER])
        self.caller = scripted_model(folder / "caller", CALL, tools)
        self.byte_level = scripted_model(folder / "bytes", pieces=["so ", b"\xf0\x9f", b"\x98\x80", "!"])
        fallback = [b"\xf0", b"\x9f", b"\x98", b"\x80"]
        self.fallback = scripted_model(folder / "fallback", "", TinyOptions(spm=True), pieces=["so", *fallback, "!"])
        self.random = tiny_model(folder / "random")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Models) -> Iterator[RealServer]:
    with real_server(*vars(models).values()) as started:
        yield started


def events(server: RealServer, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = server.client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_thoughts_are_counted(server: RealServer, models: Models) -> None:
    name, expected = str(models.thinker), {"reasoning_tokens": len(THOUGHTS)}
    whole = server.chat(model=name)
    assert (said(whole), whole.json()["usage"]["completion_tokens_details"]) == ("".join(ANSWER), expected)
    options = {"include_usage": True}
    last = events(server, "/v1/chat/completions", model=name, messages=HI, n=2, stream_options=options)[-1]
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2 * len(THOUGHTS)}
    told = server.post("/v1/responses", model=name, input="hi").json()
    assert told["usage"]["output_tokens_details"] == expected
    last = events(server, "/v1/responses", model=name, input="hi")[-1]
    assert last["response"]["usage"]["output_tokens_details"] == expected
    cut = server.chat(model=name, max_tokens=2).json()["usage"]
    assert (cut["completion_tokens"], cut["completion_tokens_details"]) == (2, {"reasoning_tokens": 2})


def test_log_probabilities_are_those_of_what_is_shown(server: RealServer, models: Models) -> None:
    name = str(models.thinker)
    content = server.chat(model=name, logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in content] == ANSWER
    chunks = events(server, "/v1/chat/completions", model=name, messages=HI, logprobs=True)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token["token"] for one in told if one for token in one["content"]] == ANSWER
    answer = server.post("/v1/responses", model=name, input="hi", include=["message.output_text.logprobs"]).json()
    assert [token["token"] for token in answer["output"][-1]["content"][0]["logprobs"]] == ANSWER
    call = server.chat(model=str(models.caller), tools=[TOOL], logprobs=True).json()["choices"][0]
    assert (call["finish_reason"], call["logprobs"]["content"]) == ("tool_calls", [])


def test_raw_text_is_not_split_into_thoughts(server: RealServer, models: Models) -> None:
    raw = server.complete(model=str(models.thinker), logprobs=0).json()
    (choice,) = raw["choices"]
    whole = [*THOUGHTS, "</think>", "\n\n", *ANSWER]
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("".join(whole), whole)
    assert raw["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


@pytest.mark.parametrize("kind", ["byte_level", "fallback"])
def test_parts_of_a_character_have_their_own_bytes(server: RealServer, models: Models, kind: str) -> None:
    name = str(getattr(models, kind))
    parts = [[0xF0, 0x9F], [0x98, 0x80]] if kind == "byte_level" else [[0xF0], [0x9F], [0x98], [0x80]]
    answer = server.chat(model=name, logprobs=True, top_logprobs=1)
    content = answer.json()["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in content[1:-1]] == parts
    assert b"".join(bytes(token["bytes"]) for token in content).decode().strip() == said(answer).strip()
    spelled = ["".join(f"\\x{byte:02x}" for byte in part) for part in parts]
    assert [token["token"] for token in content[1:-1]] == spelled
    assert [token["top_logprobs"][0]["bytes"] for token in content[1:-1]] == parts
    told = server.complete(model=name, logprobs=1).json()["choices"][0]["logprobs"]
    assert told["tokens"][1:-1] == [f"bytes:{text}" for text in spelled]
    first = told["text_offset"][1]
    assert told["text_offset"][1:] == [first, *[first + 1] * len(parts)]


def test_as_many_as_the_vocabulary_has_or_more_are_all_tokens(server: RealServer, models: Models) -> None:
    def drawn(**sampling: Any) -> str:
        return said(server.chat(model=str(models.random), max_tokens=20, temperature=1.5, seed=3, **sampling))

    whole = drawn()
    size = int(json.loads((models.random / "config.json").read_text())["vocab_size"])
    for top_k in (0, size, size + 1, 10**30):
        assert drawn(top_k=top_k) == whole
    assert drawn(top_k=2) != whole
