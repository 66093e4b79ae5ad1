"""Tool calls in generated text: every format, every chunking, and nothing lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.running_engine import RunningEngine, chatting
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2 import errors
from mlxk2.runner.request import GenerationRequest, Message, ToolCall
from mlxk2.runner.tools import (
    JSON_OBJECT,
    CallLost,
    CallPart,
    MarkedReader,
    ToolFormat,
    ToolReader,
    WholeReader,
    forced_call,
)
from mlxk2.server.protocol import Over, ToolPiece

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
ARGUMENTS = {"city": "Köln", "days": 3}

# A template that says which format it is, and a call as its model would write it.
FORMATS = {
    "json_tools": (
        "{{ tools }}<tool_call>{{ tool_call.name }}",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 3}}\n</tool_call>',
    ),
    "mistral": ("{{ tools }}[TOOL_CALLS]", '[TOOL_CALLS]weather[ARGS]{"city": "Köln", "days": 3}'),
    "mistral list": (
        "{{ tools }}[TOOL_CALLS]",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Köln", "days": 3}}]',
    ),
    "pythonic": (
        "{{ tools }}<|tool_call_start|>",
        "<|tool_call_start|>[weather(city='Köln', days=3)]<|tool_call_end|>",
    ),
    "qwen3_coder": (
        "{{ tools }}<tool_call>\n<function=",
        "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    ),
    "kimi_k2": (
        "{{ tools }}<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Köln", "days": 3}<|tool_call_end|><|tool_calls_section_end|>',
    ),
    "glm47": (
        "{{ tools }}<arg_key>",
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Köln</arg_value>"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
    ),
    "function_gemma": (
        "{{ tools }}<start_function_call>",
        "<start_function_call>call:weather{city:<escape>Köln<escape>,days:3}<end_function_call>",
    ),
}

# Templates whose calls mlx-lm has no parser for, and an answer that is one.
UNMARKED = {
    "llama": (
        '{{ tools }}Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
        '{"name": "weather", "parameters": {"city": "Rome"}}',
    ),
    "gpt-oss": (
        "{{ tools }}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
        "{# functions. <|channel|> <|call|> #}",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        '<|constrain|>json<|message|>{"city": "Rome"}',
    ),
}

JSON = ToolFormat("json", "<tool_call>", "</tool_call>", lambda text, tools: json.loads(text), shape=JSON_OBJECT)


def format_of(template: str) -> ToolFormat:
    from mlxk2.runner.mlx_backend import tool_format

    found = tool_format(template, {}, dict)
    assert found is not None
    return found


def read(reader: ToolReader, pieces: Iterable[str]) -> tuple[str, dict[int, tuple[str, str]], list[CallLost]]:
    """Return the text with that of lost calls, the calls by number, as name and arguments, and those that were lost."""
    told = [part for piece in pieces for part in reader.feed(piece)]
    told += reader.finish()
    calls: dict[int, tuple[str, str]] = {}
    for part in told:
        if isinstance(part, CallPart):
            name, arguments = calls.get(part.index, ("", ""))
            assert (part.call_id is None) == (part.name is None) == bool(name)
            calls[part.index] = (name + (part.name or ""), arguments + part.arguments)
    text = "".join(part.text if isinstance(part, CallLost) else part for part in told if not isinstance(part, CallPart))
    return text, calls, [part for part in told if isinstance(part, CallLost)]


def chunkings(text: str, count: int = 40) -> list[list[str]]:
    draw = random.Random(len(text))
    found = [[text], list(text)]
    for _ in range(count):
        places = sorted(draw.sample(range(1, len(text)), min(len(text) - 1, draw.randint(1, 12))))
        found.append([text[start:end] for start, end in zip([0, *places], [*places, len(text)])])
    return found


@pytest.mark.mlx_real
class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_a_call_is_found_in_every_chunking(self, name: str) -> None:
        template, call = FORMATS[name]
        for pieces in chunkings(f"Let me see.\n\n{call}"):
            reader = MarkedReader(format_of(template), (WEATHER,))
            text, calls, lost = read(reader, pieces)
            assert (text, lost, reader.calls) == ("Let me see.", [], 1)
            assert calls[0][0] == "weather"
            assert json.loads(calls[0][1]) == ARGUMENTS

    @pytest.mark.parametrize("name", [name for name in FORMATS if "mistral" not in name])
    def test_several_calls_are_several(self, name: str) -> None:
        template, call = FORMATS[name]
        reader = MarkedReader(format_of(template), (WEATHER,))
        text, calls, _ = read(reader, [f"{call}\n{call}\n"])
        assert (text, sorted(calls), reader.calls) == ("", [0, 1], 2)
        assert all(json.loads(arguments) == ARGUMENTS for _, arguments in calls.values())

    @pytest.mark.parametrize("name", FORMATS)
    def test_what_is_cut_short_is_not_lost(self, name: str) -> None:
        template, call = FORMATS[name]
        whole = f"Hm. {call}"
        for end in range(5, len(whole)):
            reader = MarkedReader(format_of(template), (WEATHER,))
            text, calls, _ = read(reader, list(whole[:end]))
            if not reader.calls:
                assert text == whole[:end]
            else:
                # Only the end is missing: the parser understands it all the same.
                assert calls[0][0] == "weather"


class TestJson:
    def test_arguments_are_told_as_they_come(self) -> None:
        reader = MarkedReader(JSON, (WEATHER,))
        head = '<tool_call>\n{"name": "weather", "arguments": '
        assert reader.feed(head) == ()
        (begin, first) = reader.feed('{"city": "Kö')
        assert isinstance(begin, CallPart) and begin.name == "weather" and begin.call_id
        assert first == CallPart(0, None, None, '{"city": "Kö')
        assert reader.feed('ln"}') == (CallPart(0, None, None, 'ln"'),)
        assert reader.feed("}\n") == ()
        assert reader.feed("</tool_call>") == (CallPart(0, None, None, "}"),)
        assert reader.finish() == ()
        assert reader.calls == 1

    @pytest.mark.parametrize("value", ["</tool_call>", '"</tool_call>', "{", '}}"', "\\", 'a\\"b', "<tool_call>"])
    def test_strings_may_hold_anything(self, value: str) -> None:
        arguments = json.dumps({"city": value, "deep": [{"x": [value]}]})
        call = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
        for pieces in chunkings(call, 20):
            reader = MarkedReader(JSON, (WEATHER,))
            assert read(reader, pieces) == ("", {0: ("weather", arguments)}, [])
            assert reader.calls == 1

    @pytest.mark.parametrize(
        "call",
        [
            '<tool_call>{"name": "weather", "arguments": {"city": }}</tool_call>',
            '<tool_call>{"name": "weather", "arguments": {"city": "x"}</tool_call>',
            '<tool_call>{"name": "weather", "arguments": {"city": "x"}} and more</tool_call>',
            '<tool_call>{"name": "weather", "arguments": {"city": "x',
            '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
            '<tool_call>{"arguments": {}}</tool_call>',
            '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
            "<tool_call>nonsense</tool_call>",
            "<tool_call></tool_call>",
            "</tool_call>",
            "<tool_call>",
        ],
    )
    def test_what_does_not_parse_comes_back_as_text(self, call: str) -> None:
        for pieces in chunkings(f"Hm. {call}", 20):
            reader = MarkedReader(JSON, (WEATHER,))
            text, _, _ = read(reader, pieces)
            assert (text, reader.calls) == (f"Hm. {call}", 0)

    @pytest.mark.parametrize(
        "call",
        [
            '{"arguments": {"city": "x"}, "name": "weather"}',
            '{"name": "weather", "arguments": "{\\"city\\": \\"x\\"}"}',
            '[{"name": "weather", "parameters": {"city": "x"}}]',
        ],
    )
    def test_other_spellings_are_understood_when_they_are_complete(self, call: str) -> None:
        reader = MarkedReader(JSON, (WEATHER,))
        assert read(reader, list(f"<tool_call>{call}</tool_call>")) == ("", {0: ("weather", '{"city": "x"}')}, [])

    def test_text_without_calls_is_left_alone(self) -> None:
        text = " a <b> tool_call> <tool_cal \n\n"
        for pieces in chunkings(text):
            assert read(MarkedReader(JSON, ()), pieces) == (text, {}, [])


class TestForced:
    def request(self, choice: str, *tools: dict[str, Any]) -> GenerationRequest:
        return GenerationRequest(messages=(Message("user", "x"),), tools=tools, tool_choice=choice)

    def test_the_form_of_a_call_is_demanded(self) -> None:
        pytest.importorskip("llguidance")
        constraint = forced_call(self.request("required", WEATHER, TIME))
        assert constraint is not None
        assert constraint.value('{"name":"time","arguments":{}}')["name"] == "time"
        assert constraint.value('{"name":"weather","arguments":{"city":"x"}}')
        for wrong in ('{"name":"weather","arguments":{}}', '{"name":"other","arguments":{}}', "text"):
            with pytest.raises(ValueError):
                constraint.value(wrong)
        named = forced_call(self.request("weather", WEATHER, TIME))
        assert named is not None
        with pytest.raises(ValueError):
            named.value('{"name":"time","arguments":{}}')

    def test_nothing_is_demanded_otherwise(self) -> None:
        assert forced_call(self.request("auto", WEATHER)) is forced_call(self.request("none", WEATHER)) is None

    def test_parameters_that_cannot_be_enforced_are_named(self) -> None:
        pytest.importorskip("llguidance")
        bad = {"type": "function", "function": {"name": "f", "parameters": {"type": "nothing"}}}
        with pytest.raises(errors.UsageError, match="^tools: "):
            forced_call(self.request("f", bad))

    def test_the_answer_is_the_call(self) -> None:
        for pieces in chunkings('{"name":"time","arguments":{"a":[1,{}]}}'):
            reader = WholeReader((TIME,))
            assert read(reader, pieces) == ("", {0: ("time", '{"a":[1,{}]}')}, [])
            assert reader.calls == 1
        assert read(WholeReader((TIME,)), ['{"na']) == ('{"na', {}, [])


class TestRequests:
    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"tools": ({"type": "function"},)}, "tools"),
            ({"tools": ({"function": {"name": ""}},)}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": (WEATHER,), "tool_choice": "other"}, "tool_choice"),
            ({"suffix": "x"}, "suffix"),
            ({"prompt_ids": (1,)}, "a generation"),
            ({"template_variables": {"messages": []}}, "the chat template"),
        ],
    )
    def test_what_is_wrong_is_named(self, options: dict[str, Any], field: str) -> None:
        with pytest.raises(errors.UsageError, match=f"^{field}"):
            GenerationRequest(messages=(Message("user", "x"),), **options)


@pytest.mark.mlx_real
class TestThroughTheEngine:
    TEMPLATE = (
        "{% if tools %}{% for tool in tools %}{{ tool.function.name }};{% endfor %}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% for tool_call in m.tool_calls or [] %}<tool_call>{{ tool_call.function.arguments.city }}"
        "{# tool_call.name #}{% endfor %}{{ m.tool_call_id or '' }}{% endfor %}{{ flavour or '' }}"
    )

    def engine(self, path: Path, text: str) -> RunningEngine:
        options = TinyOptions(chat_template=self.TEMPLATE, context_length=2048)
        return RunningEngine(scripted_model(path / "m", text, options))

    def test_calls_stream_and_end_the_turn(self, tmp_path: Path) -> None:
        said = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        with self.engine(tmp_path, said) as engine:
            assert engine.first.has_tools
            engine.ask("t", chatting("hi", tools=(WEATHER,)))
            end = engine.end("t")
            assert isinstance(end, Over) and end.reason == "tool_calls"
            assert engine.text("t") == "I look."
            parts = [event for event in engine.of("t") if isinstance(event, ToolPiece)]
            assert parts[0].name == "weather" and all(part.name is None for part in parts[1:])
            assert "".join(part.arguments for part in parts) == '{"city": "Rome"}'
            engine.ask("none", chatting("hi", tools=(WEATHER,), tool_choice="none"))
            assert engine.end("none").reason == "stop"
            assert engine.text("none") == said

    @pytest.mark.parametrize("is_declared", [True, False])
    @pytest.mark.parametrize("name", UNMARKED)
    def test_calls_without_marks_are_found_as_their_template_asks(
        self, tmp_path: Path, name: str, is_declared: bool
    ) -> None:
        template, said = UNMARKED[name]
        model = scripted_model(tmp_path / "m", said, TinyOptions(chat_template=template, context_length=2048))
        with RunningEngine(model) as engine:
            engine.ask("t", chatting("hi", tools=(WEATHER if is_declared else TIME,)))
            assert engine.end("t").reason == ("tool_calls" if is_declared else "stop")
            parts = [event for event in engine.of("t") if isinstance(event, ToolPiece)]
            assert [part.name for part in parts[:1]] == ["weather"] * is_declared
            assert "".join(part.arguments for part in parts) == '{"city": "Rome"}' * is_declared
            assert ('{"city": "Rome"}' in engine.text("t")) is not is_declared
            engine.ask("none", chatting("hi"))
            assert engine.end("none").reason == "stop"

    @pytest.mark.parametrize(
        ("template", "finds_calls"), [(TEMPLATE, True), ("{{ tools }}{{ messages[0].content }}", False)]
    )
    def test_it_is_said_whether_calls_are_found(self, tmp_path: Path, template: str, finds_calls: bool) -> None:
        with RunningEngine(tiny_model(tmp_path / "m", TinyOptions(chat_template=template))) as engine:
            assert (engine.first.has_tools, engine.first.finds_calls) == (True, finds_calls)

    def test_the_template_sees_tools_calls_and_variables(self, tmp_path: Path) -> None:
        call = ToolCall("id7", "weather", '{"city": "Rome"}')
        turns = (Message("user", "q"), Message("assistant", "", (call,)), Message("tool", "sun", tool_call_id="id7"))
        from mlxk2.server.protocol import Count

        with self.engine(tmp_path, "ok") as engine:
            engine.send(Count("plain", chatting(*turns)))
            engine.send(Count("tools", chatting(*turns, tools=(WEATHER,), template_variables={"flavour": "!!"})))
            plain, more = engine.end("plain").tokens, engine.end("tools").tokens
            # Each letter is a token, but "an" and "the" are one.
            assert plain == len("<user>q<assistant><tool_call>Rome<tool>sunid7") - 1
            assert more == plain + len("weather;!!") - 2

    def test_a_demanded_call_is_made(self, tmp_path: Path) -> None:
        pytest.importorskip("llguidance")
        options = TinyOptions(chat_template=self.TEMPLATE, context_length=2048)
        with RunningEngine(tiny_model(tmp_path / "m", options)) as engine:
            kind = {"name": "pick", "parameters": {"properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"],
                    "additionalProperties": False}}  # fmt: skip
            engine.ask("t", chatting("hi", tools=({"type": "function", "function": kind}, TIME), tool_choice="pick"))
            assert engine.end("t").reason == "tool_calls"
            parts = [event for event in engine.of("t") if isinstance(event, ToolPiece)]
            assert parts[0].name == "pick"
            assert json.loads("".join(part.arguments for part in parts))["n"] in (1, 2, 3)
            assert engine.text("t") == ""

    def test_a_model_without_tools_says_so(self, tmp_path: Path) -> None:
        with RunningEngine(tiny_model(tmp_path / "m")) as engine:
            assert not engine.first.has_tools
            engine.ask("t", chatting("hi", tools=(WEATHER,)))
            assert engine.end("t").problem.message.startswith("tools: ")
            engine.ask("s", chatting("hi", max_tokens=2))
            assert isinstance(engine.end("s"), Over)

    def test_filling_in_needs_its_tokens(self, tmp_path: Path) -> None:
        from support.running_engine import asking

        with RunningEngine(tiny_model(tmp_path / "m")) as engine:
            engine.ask("f", asking("a", suffix="b", max_tokens=2))
            assert engine.end("f").problem.message.startswith("suffix: ")
