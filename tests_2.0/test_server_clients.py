"""Real clients against the real server and the real engine: openai, anthropic, llm and curl, as their users use them."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.real_server import HI, MARKS, RealServer, httpx, real_server, said
from support.tiny_model import CHATML, TinyOptions, scripted_model, tiny_model

pytestmark = MARKS

HELLO = "Hello there, dear friend of knives."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
WITH_TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS},
}
SHAPE = {
    "type": "object",
    "properties": {"name": {"enum": ["Rome", "Oslo"]}, "people": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "people"],
    "additionalProperties": False,
}


class Models:
    """The folders that are served, by what they are for."""

    def __init__(self, folder: Path) -> None:
        tools = TinyOptions(
            context_length=2048, chat_template=WITH_TOOLS, tokenizer_config={"tool_parser_type": "json_tools"}
        )
        endless = TinyOptions(context_length=1_000_000)
        self.talker = scripted_model(folder / "talker", HELLO)
        self.caller = scripted_model(folder / "caller", CALL, tools)
        self.random = tiny_model(folder / "random")
        self.embedder = tiny_model(folder / "embedder", TinyOptions(model_type="qwen3", chat_template=None))
        self.endless = scripted_model(folder / "endless", "abcdefghijklmnop", endless, repeat=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: Models) -> Iterator[RealServer]:
    with real_server(*vars(models).values()) as started:
        yield started


# --- openai -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpt(server: RealServer) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_openai_chat_completion_and_responses(gpt: Any, models: Models) -> None:
    name = str(models.talker)
    answer = gpt.chat.completions.create(model=name, messages=HI)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (HELLO, "stop")
    assert gpt.completions.create(model=name, prompt=["hi", "yo"], n=2).choices[3].text == HELLO
    told = gpt.responses.create(model=name, input="hi", instructions="Be brief.")
    assert (told.output_text, told.status) == (HELLO, "completed")
    assert told.usage.output_tokens == answer.usage.completion_tokens


def test_openai_streams(gpt: Any, models: Models) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(gpt.chat.completions.create(model=str(models.talker), messages=HI, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == HELLO
    assert chunks[-1].usage.completion_tokens > 3
    with gpt.responses.stream(model=str(models.talker), input="hi") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == HELLO
    # A fast engine's tokens come some at a time.
    assert kinds.count("response.output_text.delta") >= 1


def test_openai_logprobs_of_the_real_engine(gpt: Any, models: Models) -> None:
    answer = gpt.chat.completions.create(
        model=str(models.random), messages=HI, logprobs=True, top_logprobs=3, max_tokens=4, temperature=0
    )
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(max(other.logprob for other in token.top_logprobs), abs=1e-4)


def test_openai_tools(gpt: Any, models: Models) -> None:
    name = str(models.caller)
    answer = gpt.chat.completions.create(model=name, messages=HI, tools=[FUNCTION])
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome"})
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)
    with gpt.chat.completions.stream(model=name, messages=HI, tools=[FUNCTION]) as stream:
        (same,) = stream.get_final_completion().choices[0].message.tool_calls
    assert json.loads(same.function.arguments) == {"city": "Rome"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said_so = answer.choices[0].message.model_dump(exclude_none=True)
    again = gpt.chat.completions.create(model=name, messages=[*HI, said_so, result], tools=[FUNCTION])
    assert again.usage.prompt_tokens > answer.usage.prompt_tokens
    flat = {"type": "function", **FUNCTION["function"], "strict": False}
    (item,) = gpt.responses.create(model=name, input="hi", tools=[flat]).output
    assert (item.type, item.name, json.loads(item.arguments)) == ("function_call", "weather", {"city": "Rome"})
    plain = gpt.chat.completions.create(model=name, messages=HI, tools=[FUNCTION], tool_choice="none")
    assert plain.choices[0].message.content == CALL


def test_openai_tool_that_must_be_called(gpt: Any, models: Models) -> None:
    """It calls although its own words are other ones: the answer is held to the form of a call."""
    pytest.importorskip("llguidance")
    caller = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", caller):
        answer = gpt.chat.completions.create(
            model=str(models.caller), messages=HI, tools=[FUNCTION], tool_choice=choice, max_tokens=120
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


def test_openai_structured_answers(gpt: Any, models: Models) -> None:
    pytest.importorskip("llguidance")
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SHAPE}}
    answer = gpt.chat.completions.create(
        model=str(models.random), messages=HI, response_format=wanted, n=3, seed=1, max_tokens=100
    )
    for choice in answer.choices:
        city = json.loads(choice.message.content)
        assert city["name"] in ("Rome", "Oslo") and 0 <= city["people"] <= 99
        assert choice.finish_reason == "stop"
    form = {"format": {"type": "json_schema", "name": "city", "schema": SHAPE}}
    told = gpt.responses.create(model=str(models.random), input="hi", text=form, max_output_tokens=100)
    assert json.loads(told.output_text)["name"] in ("Rome", "Oslo")


def test_openai_embeddings(gpt: Any, models: Models) -> None:
    name = str(models.embedder)
    answer = gpt.embeddings.create(model=name, input=["the cat", "the dog", "the cat"])
    first, other, same = (one.embedding for one in answer.data)
    assert math.sqrt(sum(value * value for value in first)) == pytest.approx(1, abs=1e-4)
    assert first == pytest.approx(same, abs=1e-5)
    assert first != pytest.approx(other, abs=1e-2)
    alone = gpt.embeddings.create(model=name, input="the cat", encoding_format="float")
    assert alone.data[0].embedding == pytest.approx(first, abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_openai_errors_of_the_real_engine(gpt: Any, models: Models) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.NotFoundError) as unknown:
        gpt.chat.completions.create(model="no/such", messages=HI)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        gpt.chat.completions.create(model=str(models.talker), messages=HI, max_tokens=1000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        gpt.chat.completions.create(model=str(models.talker), messages=HI, tools=[FUNCTION])
    with pytest.raises(openai.APIStatusError) as no_vectors:
        gpt.embeddings.create(model=str(models.talker), input="hi")
    assert 400 <= no_vectors.value.status_code < 500


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openai_that_waits_no_longer_frees_the_engine(
    server: RealServer, gpt: Any, models: Models, stream: bool
) -> None:
    openai = pytest.importorskip("openai")
    name = str(models.endless)
    assert gpt.chat.completions.create(model=name, messages=HI, max_tokens=2).choices
    impatient = gpt.with_options(timeout=0.4)
    if stream:
        pieces = iter(gpt.chat.completions.create(model=name, messages=HI, stream=True))
        for _ in range(5):
            next(pieces)
        pieces.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model=name, messages=HI)
    server.wait_until_idle()


# --- anthropic --------------------------------------------------------------------------------------------------------


@pytest.fixture
def claude(server: RealServer) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_anthropic_message_and_stream(claude: Any, models: Models) -> None:
    asked: Any = {"model": str(models.talker), "messages": HI, "max_tokens": 60}
    answer = claude.messages.create(system="Be brief.", **asked)
    assert (answer.content[0].text, answer.stop_reason) == (HELLO, "end_turn")
    assert claude.messages.create(stop_sequences=["dear"], **asked).stop_reason == "stop_sequence"
    with claude.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == HELLO
        assert stream.get_final_message().usage.output_tokens == answer.usage.output_tokens
    counted = claude.messages.count_tokens(model=str(models.talker), messages=HI, system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens


def test_anthropic_tools(claude: Any, models: Models) -> None:
    tool = {"name": "weather", "description": "Tell it.", "input_schema": PARAMETERS}
    asked: Any = {"model": str(models.caller), "messages": HI, "max_tokens": 100, "tools": [tool]}
    answer = claude.messages.create(**asked)
    block = answer.content[-1]
    assert (answer.stop_reason, block.type, block.name, block.input) == (
        "tool_use", "tool_use", "weather", {"city": "Rome"},
    )  # fmt: skip
    with claude.messages.stream(**asked) as stream:
        assert stream.get_final_message().content[-1].input == {"city": "Rome"}


def test_anthropic_errors(claude: Any, models: Models) -> None:
    anthropic = pytest.importorskip("anthropic")
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="no/such", messages=HI, max_tokens=5)
    with pytest.raises(anthropic.BadRequestError, match="context holds"):
        claude.messages.create(model=str(models.talker), messages=HI, max_tokens=1000)


# --- llm --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ask_llm(server: RealServer, models: Models, tmp_path: Path) -> Any:
    """Run `llm` with our models in its configuration file; return what it printed."""
    pytest.importorskip("llm")
    entries = [
        f"- model_id: {name}{suffix}\n  model_name: {folder}\n  api_base: {server.url}/v1\n"
        f"  supports_schema: true\n  supports_tools: true\n{extra}"
        for name, folder in vars(models).items()
        for suffix, extra in (("", ""), ("-responses", "  responses: true\n"), ("-completion", "  completion: true\n"))
    ]
    (tmp_path / "extra-openai-models.yaml").write_text("".join(entries), encoding="utf-8")

    def ask(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path), "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return ask


@pytest.mark.parametrize("model", ["talker", "talker-responses", "talker-completion"])
def test_llm_prompts(ask_llm: Any, model: str) -> None:
    for flags in ((), ("--no-stream",), ("-s", "Be brief.")):
        if not (flags == ("-s", "Be brief.") and model.endswith("completion")):
            assert ask_llm("prompt", "-m", model, "hi", *flags) == HELLO


def test_llm_schema_and_tools(ask_llm: Any, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    answer = ask_llm("prompt", "-m", "random", "hi", "--schema", json.dumps(SHAPE), "-o", "max_tokens", "100")
    assert json.loads(answer)["name"] in ("Rome", "Oslo")
    seen = tmp_path / "seen"
    code = f"def weather(city: str) -> str:\n    open({str(seen)!r}, 'a').write(city)\n    return 'sunny'\n"
    # The model only ever calls; llm stops after so many rounds, and says so.
    with pytest.raises(AssertionError, match="Chain limit"):
        ask_llm("prompt", "-m", "caller", "hi", "--functions", code, "--cl", "2", "--no-stream")
    assert seen.read_text() == "Rome"


# --- curl -------------------------------------------------------------------------------------------------------------

CURL = shutil.which("curl")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl(server: RealServer, models: Models) -> None:
    def curl(path: str, *words: str) -> str:
        command = [str(CURL), "-sS", "--max-time", "60", f"{server.url}{path}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout

    body = {"model": str(models.talker), "messages": HI}
    kind = ("-H", "Content-Type: application/json")
    answer = json.loads(curl("/v1/chat/completions", *kind, "-d", json.dumps(body)))
    assert answer["choices"][0]["message"]["content"] == HELLO
    lines = curl("/v1/chat/completions", "-N", *kind, "-d", json.dumps({**body, "stream": True})).splitlines()
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert curl("/health") == '{"status":"healthy","service":"mlx-knife-server-2.0"}'
    assert {one["id"] for one in json.loads(curl("/v1/models"))["data"]} == set(map(str, vars(models).values()))
    # Without the header curl calls it a form.
    assert "application/json" in json.loads(curl("/v1/chat/completions", "-d", json.dumps(body)))["error"]["message"]
    assert 'mlxk2_requests_total{method="POST",route="/v1/chat/completions",status="415"} 1.0' in curl("/metrics")
    # A body that is announced and waited for, and one that is sent with the older protocol.
    large = json.dumps({**body, "metadata": {"x": "y" * 100_000}})
    assert HELLO in curl("/v1/chat/completions", *kind, "-H", "Expect: 100-continue", "-d", large)
    assert HELLO in curl("/v1/chat/completions", "--http1.0", *kind, "-d", json.dumps(body))


def test_clients_of_different_models_are_all_answered(server: RealServer, models: Models) -> None:
    names = [str(models.talker), str(models.random), str(models.embedder)]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(2):
            assert said(client.post("/v1/chat/completions", json={"model": names[0], "messages": HI})) == HELLO
            assert client.post("/v1/embeddings", json={"model": names[2], "input": "x"}).status_code == 200
