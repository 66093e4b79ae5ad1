"""The real clients of OpenAI and of Anthropic, against the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_host import MODEL, FakeHost, RunningServer, Script, serving
from support.processes import wait_until

from mlxk2 import errors
from mlxk2.server.protocol import Problem
from mlxk2.server.settings import ServerSettings

pytest.importorskip("fastapi", reason="the server's packages are not installed")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

KEY = "sk-test"
HELLO: Any = [{"role": "user", "content": "hello"}]
CALLS = (("call_1", "weather", ('{"city":', '"Rome"}')),)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS},
}
FLAT: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tell it.",
    "parameters": PARAMETERS,
    "strict": False,
}
CLAUDES: Any = {"name": "weather", "description": "Tell it.", "input_schema": PARAMETERS}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost(), ServerSettings(api_keys=(KEY,), keepalive_s=0.1)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: RunningServer) -> None:
    server.host.script = Script()
    server.host.requests.clear()


@pytest.fixture
def gpt(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: RunningServer) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_chat(gpt: Any) -> None:
    answer = gpt.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "Hello there!"
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_openai_lists_models(gpt: Any) -> None:
    assert [model.id for model in gpt.models.list()] == [MODEL]
    assert gpt.models.retrieve(MODEL).owned_by == "org"


def test_openai_stream_with_silence_and_usage(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(thoughts=("hm",), pause_s=0.15)
    chunks = list(
        gpt.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there!"
    assert chunks[1].choices[0].delta.reasoning_content == "hm"
    assert (chunks[-1].usage.total_tokens, chunks[-1].usage.completion_tokens_details.reasoning_tokens) == (16, 1)


def test_openai_tools_in_a_stream(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(words=(), calls=CALLS, reason="tool_calls")
    with gpt.chat.completions.stream(model=MODEL, messages=HELLO, tools=[FUNCTION], tool_choice="required") as stream:
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call_1", "weather", {"city": "Rome"})
    assert final.choices[0].finish_reason == "tool_calls"
    assert server.host.requests[0].tool_choice == "required"


def test_openai_structured_output(server: RunningServer, gpt: Any) -> None:
    pytest.importorskip("llguidance")
    pydantic = pytest.importorskip("pydantic")
    city = pydantic.create_model("City", name=(str, ...), people=(int, ...))
    server.host.script = Script(words=('{"name":', '"Rome","people":3}'))
    answer = gpt.chat.completions.parse(model=MODEL, messages=HELLO, response_format=city)
    assert (answer.choices[0].message.parsed.name, answer.choices[0].message.parsed.people) == ("Rome", 3)
    assert server.host.requests[0].constraint is not None


def test_openai_legacy_completions(gpt: Any) -> None:
    answer = gpt.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1)
    assert [choice.text for choice in answer.choices] == ["Hello there!"] * 2
    assert answer.choices[0].logprobs.text_offset == [0, 5, 11]
    pieces = gpt.completions.create(model=MODEL, prompt="a", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "Hello there!"


def test_openai_embeddings(gpt: Any) -> None:
    answer = gpt.embeddings.create(model=MODEL, input=["a", "b"])
    assert answer.data[1].embedding == pytest.approx([0.6, 0.8, 1.0])
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        gpt.embeddings.create(model=MODEL, input="a", dimensions=3)


def test_openai_responses(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(thoughts=("hm",))
    answer = gpt.responses.create(
        model=MODEL, input="hello", instructions="Be brief.", store=False, reasoning={"effort": "low"}
    )
    assert answer.output_text == "Hello there!"
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.status, answer.usage.input_tokens_details.cached_tokens) == ("completed", 4)
    asked = server.host.requests[0]
    assert [(message.role, message.content) for message in asked.messages] == [
        ("system", "Be brief."),
        ("user", "hello"),
    ]
    assert asked.template_variables["reasoning_effort"] == "low"


def test_openai_responses_go_on_after_a_call(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(thoughts=("look",), words=(), calls=CALLS, reason="tool_calls")
    first = gpt.responses.create(model=MODEL, input=HELLO, tools=[FLAT])
    call = next(item for item in first.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
    server.host.script = Script()
    said = [item.model_dump(exclude_none=True) for item in first.output]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    gpt.responses.create(model=MODEL, input=[*HELLO, *said, result], tools=[FLAT])
    user, assistant, tool = server.host.requests[1].messages
    assert (assistant.reasoning, assistant.tool_calls[0].name) == ("look", "weather")
    assert (tool.content, tool.tool_call_id) == ("sunny", "call_1")


def test_openai_responses_stream(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(thoughts=("h", "m"), calls=CALLS, reason="tool_calls")
    with gpt.responses.stream(model=MODEL, input="hello", tools=[FLAT]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
    assert final.output_text == "Hello there!"
    assert json.loads(final.output[2].arguments) == {"city": "Rome"}


def test_openai_responses_cut_at_the_limit(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(reason="length")
    answer = gpt.responses.create(model=MODEL, input="hello", max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with gpt.responses.stream(model=MODEL, input="hello") as stream:
        assert list(stream)[-1].type == "response.incomplete"


def test_openai_errors(server: RunningServer, gpt: Any) -> None:
    with pytest.raises(openai.NotFoundError) as found:
        gpt.chat.completions.create(model="nobody", messages=HELLO)
    assert found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        gpt.chat.completions.create(model=MODEL, messages=HELLO, extra_body={"xtc_threshold": 1})
    assert bad.value.param == "xtc_threshold"
    server.host.script = Script(error=errors.QueueFull("full", retry_after_s=1))
    with pytest.raises(openai.RateLimitError):
        gpt.chat.completions.create(model=MODEL, messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        gpt.with_options(api_key="wrong").models.list()


def test_openai_errors_in_a_stream(server: RunningServer, gpt: Any) -> None:
    server.host.script = Script(fail_after=1, problem=Problem("engine_lost", "it crashed", None, 503))
    with pytest.raises(openai.APIError, match="it crashed"):
        list(gpt.chat.completions.create(model=MODEL, messages=HELLO, stream=True))


@pytest.mark.parametrize("stream", [True, False])
def test_openai_timeout_frees_the_place(server: RunningServer, gpt: Any, stream: bool) -> None:
    host = FakeHost(script=Script(hold=True))
    with serving(host) as patient:
        impatient = gpt.with_options(base_url=f"{patient.url}/v1", timeout=httpx.Timeout(20, read=1))
        with pytest.raises((openai.APITimeoutError, httpx.ReadTimeout)):
            list(impatient.chat.completions.create(model=MODEL, messages=HELLO, stream=stream))
        wait_until(lambda: (host.running, host.cancelled) == (0, 1))


def test_anthropic_message(server: RunningServer, claude: Any) -> None:
    server.host.script = Script(thoughts=("hm",), reason="stop", stop="END")
    answer = claude.messages.create(
        model=MODEL, max_tokens=9, system="Be brief.", messages=HELLO, stop_sequences=["END"], extra_body={"temperature": 0.5},
        thinking={"type": "enabled", "budget_tokens": 1024}, metadata={"user_id": "me"},
    )  # fmt: skip
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (8, 4, 4)
    asked = server.host.requests[0]
    assert (asked.messages[0].role, asked.messages[0].content) == ("system", "Be brief.")
    assert (asked.max_tokens, asked.stop, asked.sampling.temperature) == (9, ("END",), 0.5)
    assert asked.template_variables == {"enable_thinking": True}


def test_anthropic_stream(server: RunningServer, claude: Any) -> None:
    server.host.script = Script(thoughts=("h", "m"), pause_s=0.12, calls=CALLS, reason="tool_calls")
    with claude.messages.stream(
        model=MODEL, max_tokens=9, messages=HELLO, tools=[CLAUDES], tool_choice={"type": "any"}
    ) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(texts) == "Hello there!"
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.content[2].input == {"city": "Rome"}
    assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", 5)
    assert server.host.requests[0].tool_choice == "required"


def test_anthropic_goes_on_after_a_call(server: RunningServer, claude: Any) -> None:
    blocks = [
        {"type": "text", "text": "Look."},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
    ]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}
    messages = [
        *HELLO,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [result, {"type": "text", "text": "so?"}]},
    ]
    claude.messages.create(model=MODEL, max_tokens=9, messages=messages, tools=[CLAUDES])
    _, assistant, tool, user = server.host.requests[0].messages
    assert (assistant.content, assistant.tool_calls[0].arguments) == ("Look.", '{"city": "Rome"}')
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "sunny", "t1")
    assert (user.role, user.content) == ("user", "so?")


def test_anthropic_counts_tokens(claude: Any) -> None:
    assert claude.messages.count_tokens(model=MODEL, messages=HELLO, system="x").input_tokens == 42


def test_anthropic_errors(server: RunningServer, claude: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        claude.messages.create(model="nobody", max_tokens=9, messages=HELLO)
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="wrong").messages.create(model=MODEL, max_tokens=9, messages=HELLO)
    server.host.script = Script(fail_after=1, problem=Problem("engine_lost", "it crashed", None, 503))
    with (
        pytest.raises(anthropic.APIStatusError, match="it crashed"),
        claude.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream,
    ):
        list(stream)
