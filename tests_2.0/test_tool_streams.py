"""What is told of tool calls as they come: always true, in any chunking, and nothing that breaks off looks like a call."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cost import cpu_seconds

from mlxk2.runner.reasoning import FORMATS
from mlxk2.runner.tools import (
    HARMONY,
    JSON_OBJECT,
    MISTRAL,
    CallLost,
    CallPart,
    MarkedReader,
    ToolFormat,
    ToolReader,
    WholeReader,
    complete_part,
    is_json,
    known_format,
)
from mlxk2.runner.tools.json_prefix import JsonPrefix

BY_NAME = {known.name: known for known in FORMATS}
TOOLS = tuple({"type": "function", "function": {"name": name}} for name in ("weather", "time"))
JSON = ToolFormat("json", "<tool_call>", "</tool_call>", lambda text, tools: json.loads(text), shape=JSON_OBJECT)
GOOD = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
TIME = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


class Seen(NamedTuple):
    """What came of an answer: its text in order, with that of lost calls; (name, arguments) of calls; how many are lost."""

    text: str
    calls: tuple[tuple[str, str], ...]
    lost: tuple[int, ...]
    complete: int


def seen(reader: ToolReader, pieces: Iterable[str], *, is_cut: bool = False) -> Seen:
    told = [part for piece in pieces for part in reader.feed(piece)]
    told += reader.finish(is_cut=is_cut)
    calls: dict[int, tuple[str, str]] = {}
    for part in told:
        assert part != "", "an empty text was told"
        if isinstance(part, CallPart):
            name, arguments = calls.get(part.index, ("", ""))
            calls[part.index] = (name + (part.name or ""), arguments + part.arguments)
    text = "".join(part.text if isinstance(part, CallLost) else part for part in told if not isinstance(part, CallPart))
    assert list(calls) == list(range(len(calls)))
    lost = tuple(part.index for part in told if isinstance(part, CallLost))
    return Seen(text, tuple(calls.values()), lost, reader.calls)


def cut_up(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


def strict(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(word)

    def finite(word: str) -> float:
        return refuse(word) if float(word) in (float("inf"), float("-inf")) else float(word)

    return json.loads(text, parse_constant=refuse, parse_float=finite)


class TestJsonPrefix:
    @given(OBJECTS, st.sampled_from([(",", ":"), (" , ", " :\n"), (",\t", ": ")]), st.booleans())
    def test_all_json_is_followed_to_its_end(self, value: Any, separators: Any, is_ascii: bool) -> None:
        text = json.dumps(value, separators=separators, ensure_ascii=is_ascii)
        follower = JsonPrefix()
        for at in range(len(text)):
            assert not follower.is_over
            assert follower.read(text[: at + 1], at) == at + 1
        assert follower.is_over
        assert follower.read(text + " }", len(text)) == len(text)

    @given(OBJECTS, st.data())
    def test_a_mistake_is_found_where_json_has_one(self, value: Any, data: st.DataObject) -> None:
        text = json.dumps(value, ensure_ascii=False)
        at = data.draw(st.integers(0, len(text) - 1))
        new = data.draw(
            st.sampled_from(["", '"', ",", ":", "{", "}", "[", "]", "\\", "0", "-", ".", "e", "t", "\n", " "])
        )
        text = text[:at] + new + text[at + data.draw(st.integers(0, 1)) :]
        try:
            found = isinstance(strict(text), (dict, list)) and text == text.rstrip()
        except ValueError:
            found = False
        assert is_json(text) == found, text

    @pytest.mark.parametrize(
        "value", ["01", "1.", ".5", "-", "+1", "1e", "NaN", "Infinity", "tru", "'a'", '"\\x"', '"\\u12g4"']
    )
    def test_no_other_dialect_is_json(self, value: str) -> None:
        assert not is_json(f'{{"a": {value}}}')

    @given(OBJECTS)
    def test_of_every_beginning_the_complete_part_is_known(self, value: Any) -> None:
        text = json.dumps(value)
        for end in range(1, len(text)):
            part = complete_part(text[:end])
            assert isinstance(part, dict) and set(part) <= set(value)
        assert complete_part(text) == value

    def test_what_is_cut_in_a_member_goes_without_it(self) -> None:
        assert complete_part('{"a": "x", "b": [1, 23, "y') == {"a": "x", "b": [1, 23]}
        assert complete_part('{"a": {"b": tr') == {"a": {}}
        assert complete_part("") is None
        assert complete_part('{"a": "\\\\", "b": "\\"", "c": "\\') == {"a": "\\", "b": '"'}

    @pytest.mark.parametrize("value", ["1e999", "-1e999", "[1, 2e400]", "9" * 5000])
    def test_a_number_that_no_reader_can_hold_is_none(self, value: str) -> None:
        if value.isdigit() and not hasattr(sys, "get_int_max_str_digits"):
            pytest.skip("this Python reads whole numbers of any length")
        assert not is_json(f'{{"a": {value}}}')
        assert complete_part(f'{{"a": {value}, "b') is None
        text = f'<tool_call>{{"name": "weather", "arguments": {{"a": {value}}}}}</tool_call>'
        assert seen(MarkedReader(JSON, TOOLS), text) == Seen(text, (("weather", f'{{"a": {value}'),), (0,), 0)
        assert seen(MarkedReader(JSON, TOOLS), GOOD + text) == Seen(text, (("weather", ROME),), (), 1)

    @pytest.mark.parametrize("depth", [150, 250, 100_000])
    def test_what_no_reader_can_follow_is_none(self, depth: int) -> None:
        arguments = '{"a": ' + "[" * depth + "]" * depth + "}"
        call = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
        text = f'<tool_call>{{"name": "weather", "arguments": {json.dumps(arguments)}}}</tool_call>'
        for said in (call, text):
            found = seen(MarkedReader(JSON, TOOLS), said)
            assert (found.complete, found.text) == ((1, "") if depth == 150 else (0, said))
        # Of what is cut it is the part that can be followed.
        json.dumps(complete_part(arguments[: depth + 10]))


FRAGMENTS = [GOOD, TIME, "<tool_call>", "</tool_call>", '{"name": "weather", "arguments": ', '{"city": "x', '"', "}", "{",
             " ", "\n", "[1, ", "nonsense", '"name"', '{"name": "other", "arguments": {}}', "\\", "<tool", ","]  # fmt: skip


class TestMarked:
    @given(st.lists(st.sampled_from(FRAGMENTS), max_size=8), st.lists(st.integers(0, 9), max_size=40), st.booleans())
    def test_any_chunking_tells_the_same_and_the_truth(self, parts: list[str], sizes: list[int], is_cut: bool) -> None:
        text = "".join(parts)
        found = seen(MarkedReader(JSON, TOOLS), cut_up(text, sizes), is_cut=is_cut)
        assert found == seen(MarkedReader(JSON, TOOLS), text, is_cut=is_cut)
        # A call that is none is never beside one that is to be made, and what is told of it does not parse.
        assert not (found.lost and found.complete)
        unfinished = found.calls[found.complete :]
        assert len(unfinished) == len(found.lost) or (is_cut and len(unfinished) == 1 and not found.lost)
        assert all(not is_json(arguments) for _, arguments in unfinished if found.lost)
        assert all(isinstance(strict(arguments), dict) for _, arguments in found.calls[: found.complete])
        assert {name for name, _ in found.calls} <= {"weather", "time"}
        if not found.complete and len(found.lost) == len(found.calls):
            assert found.text == text

    @pytest.mark.parametrize("end", range(len("<tool_call>{") + 47, len(GOOD)))
    def test_a_call_that_the_limit_cuts_is_a_call(self, end: int) -> None:
        found = seen(MarkedReader(JSON, TOOLS), f"Hm. {GOOD[:end]}", is_cut=True)
        assert (found.text, found.lost) == ("Hm.", ())
        ((name, arguments),) = found.calls
        assert name == "weather" and '{"city": "Rome"}'.startswith(arguments) and arguments
        assert found.complete == int(end >= GOOD.index("</tool_call>"))

    def test_the_second_call_that_the_limit_cuts_is_one_too(self) -> None:
        second = '\n<tool_call>{"name": "time", "arguments": {"zone": "CE'
        found = seen(MarkedReader(JSON, TOOLS), GOOD + second, is_cut=True)
        assert found == Seen("", (("weather", '{"city": "Rome"}'), ("time", '{"zone": "CE')), (), 1)

    def test_nothing_wrong_is_told_as_an_argument(self) -> None:
        reader = MarkedReader(JSON, TOOLS)
        told = reader.feed('<tool_call>{"name": "weather", "arguments": {"city": x')
        assert told[1:] == (
            CallPart(0, None, None, '{"city": '),
            CallLost(0, '<tool_call>{"name": "weather", "arguments": {"city": x'),
        )
        # From then on everything is text, as it comes.
        assert reader.feed("yz}}</tool_call>") == ("yz}}", "</tool_call>")
        assert "".join(map(str, reader.feed(f"\n{GOOD}\n"))) == f"\n{GOOD}\n"
        assert (reader.finish(), reader.calls) == ((), 0)

    @pytest.mark.parametrize("behind", ["}}", "} and more", "},", '} "x"', ', "name": "time"}', ', "arguments": {}}'])
    def test_what_is_wrong_behind_the_arguments_leaves_them_open(self, behind: str) -> None:
        call = f'<tool_call>{{"name": "weather", "arguments": {{"city": "Rome"}}{behind}</tool_call>'
        found = seen(MarkedReader(JSON, TOOLS), call)
        assert found == Seen(call, (("weather", '{"city": "Rome"'),), (0,), 0)

    @pytest.mark.parametrize("wrapped", ['{"name": "weather", "arguments": {"a": 1}, "id": "x"}',
                                         '{"type": "function", "name": "weather", "parameters": {"a": 1}}'])  # fmt: skip
    def test_other_members_do_no_harm(self, wrapped: str) -> None:
        found = seen(MarkedReader(JSON, TOOLS), f"<tool_call>{wrapped}</tool_call>")
        assert found == Seen("", (("weather", '{"a": 1}'),), (), 1)

    def test_a_second_call_that_breaks_off_is_text_alone(self) -> None:
        broken = '<tool_call>{"name": "time", "arguments": {"zone": }}</tool_call>'
        found = seen(MarkedReader(JSON, TOOLS), f"{GOOD}{broken}{TIME}")
        assert found == Seen(broken, (("weather", '{"city": "Rome"}'), ("time", "{}")), (), 2)

    @pytest.mark.parametrize("name", ["other", "Weather", "weather "])
    def test_a_call_of_no_tool_is_text_as_it_comes(self, name: str) -> None:
        reader = MarkedReader(JSON, TOOLS)
        head = f'<tool_call>{{"name": "{name}", "arguments": '
        assert reader.feed(head + "{") == (head + "{",)
        assert reader.feed('"a": 1') == ('"a": 1',)
        found = seen(reader, ["}}</tool_call>", GOOD])
        assert found == Seen("}}</tool_call>", (("weather", '{"city": "Rome"}'),), (), 1)

    def test_one_call_ends_the_answer(self) -> None:
        reader = MarkedReader(JSON, TOOLS, one_call=True)
        assert not reader.feed(GOOD[:-1])[2:] and not reader.is_over
        assert reader.feed(f"> and {TIME}") == (CallPart(0, None, None, "}"),)
        assert (reader.is_over, reader.calls, reader.feed(TIME), reader.finish()) == (True, 1, (), ())


TWO = '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}\n[TOOL_CALLS]time[CALL_ID]a1B2[ARGS]{"zone": "[TOOL_CALLS]"}'


def of_mistral(text: str) -> Any:
    """What a list of calls is for mlx-lm's parser."""
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("no list")
    return found


class TestEndless:
    FORMAT = ToolFormat("mistral", "[TOOL_CALLS]", "", lambda text, tools: of_mistral(text), shape=MISTRAL)

    @given(
        st.lists(st.sampled_from([TWO, "[TOOL_CALLS]", "weather[ARGS]", *FRAGMENTS]), max_size=6),
        st.lists(st.integers(0, 9), max_size=40),
        st.booleans(),
    )
    def test_any_chunking_tells_the_same(self, parts: list[str], sizes: list[int], is_cut: bool) -> None:
        text = "".join(parts)
        found = seen(MarkedReader(self.FORMAT, TOOLS), cut_up(text, sizes), is_cut=is_cut)
        assert found == seen(MarkedReader(self.FORMAT, TOOLS), text, is_cut=is_cut)
        assert not (found.lost and found.complete)

    def test_a_call_is_over_with_its_arguments(self) -> None:
        found = seen(MarkedReader(self.FORMAT, TOOLS), TWO)
        assert found == Seen("", (("weather", '{"city": "Rome"}'), ("time", '{"zone": "[TOOL_CALLS]"}')), (), 2)
        assert seen(MarkedReader(self.FORMAT, TOOLS), TWO[:41] + " Sun.").text == " Sun."
        reader = MarkedReader(self.FORMAT, TOOLS, one_call=True)
        assert reader.feed(TWO[:40]) and not reader.is_over
        assert reader.feed(TWO[40:]) == (CallPart(0, None, None, "}"),) and reader.is_over

    @pytest.mark.parametrize(
        "refused",
        ['nope[ARGS]{"a": 1}', 'nope[ARGS]{"a": "[TOOL_CALLS]weather[ARGS]{}"}', "nope[ARGS]{} So.", "weather[ARGS]Rome",
         'nope[ARGS]{"a": ', 'nope[ARGS]{"a": x "'],
    )  # fmt: skip
    def test_a_call_of_no_tool_does_not_swallow_those_behind_it(self, refused: str) -> None:
        refused = f"[TOOL_CALLS]{refused}"
        for pieces in ([refused, TWO], refused + TWO):
            found = seen(MarkedReader(self.FORMAT, TOOLS), pieces)
            assert found == Seen(refused, (("weather", ROME), ("time", '{"zone": "[TOOL_CALLS]"}')), (), 2)
        found = seen(MarkedReader(self.FORMAT, TOOLS), TWO[:41] + refused + TWO)
        assert (found.text, found.complete) == (refused, 3)

    def test_what_is_cut_or_broken_is_as_with_other_marks(self) -> None:
        assert seen(MarkedReader(self.FORMAT, TOOLS), TWO[:38], is_cut=True).calls == (("weather", '{"city": "Rom'),)
        broken = "[TOOL_CALLS]weather[ARGS]{city: 1}"
        assert seen(MarkedReader(self.FORMAT, TOOLS), broken) == Seen(broken, (("weather", "{"),), (0,), 0)
        listed = '[TOOL_CALLS][{"name": "time", "arguments": {}}]'
        assert seen(MarkedReader(self.FORMAT, TOOLS), listed) == Seen("", (("time", "{}"),), (), 1)


CALL = '{"name": "weather", "parameters": {"city": "Rome"}}'


class TestWhole:
    @given(
        st.lists(st.sampled_from([CALL, "<|python_tag|>", *FRAGMENTS]), max_size=5),
        st.lists(st.integers(0, 9)),
        st.booleans(),
    )
    def test_any_chunking_tells_the_same(self, parts: list[str], sizes: list[int], is_cut: bool) -> None:
        text = "".join(parts)
        found = seen(WholeReader(TOOLS), cut_up(text, sizes), is_cut=is_cut)
        assert found == seen(WholeReader(TOOLS), text, is_cut=is_cut)
        assert not (found.lost and found.complete)
        assert bool(found.calls) or found.text == text

    @pytest.mark.parametrize("before", ["", "\n", "<|python_tag|>", " <|python_tag|> "])
    def test_an_answer_that_is_a_call_is_one(self, before: str) -> None:
        assert seen(WholeReader(TOOLS), before + CALL) == Seen("", (("weather", '{"city": "Rome"}'),), (), 1)
        turned = '{"parameters": {"city": "Rome"}, "name": "weather"}'
        assert seen(WholeReader(TOOLS), before + turned) == Seen("", (("weather", '{"city": "Rome"}'),), (), 1)
        cut = seen(WholeReader(TOOLS), before + CALL[:-5], is_cut=True)
        assert cut == Seen("", (("weather", '{"city": "Ro'),), (), 0)

    @pytest.mark.parametrize("text", ["The sun shines.", '{"city": "Rome"}', '{"name": "Bob", "age": 3}', "<|python_tag|>print(1)",
                                      "[1]", "{}", '{"name": "other", "parameters": {}}', f"So: {CALL}", "<|python"])  # fmt: skip
    def test_every_other_answer_is_text(self, text: str) -> None:
        assert seen(WholeReader(TOOLS), text) == Seen(text, (), (), 0)

    @pytest.mark.parametrize("text", ["Sun", '{"city"', '{"name": "Bob"', "<|python_tag|>print"])
    def test_what_is_no_call_is_shown_at_once(self, text: str) -> None:
        assert WholeReader(TOOLS).feed(text) == (text,)

    def test_what_is_long_before_it_is_known_is_told_all_the_same(self) -> None:
        space = " " * 3000
        for pieces in ([f"{space}<|python_tag|>{space}", CALL], space + "<|python_tag|>" + space + CALL):
            assert seen(WholeReader(TOOLS), pieces) == Seen("", (("weather", ROME),), (), 1)
        for text in (space, '{"name": "' + "x" * 3000 + '"}', "{" + space + '"type": 1}'):
            assert seen(WholeReader(TOOLS), [text]) == seen(WholeReader(TOOLS), text) == Seen(text, (), (), 0)

    def test_more_behind_the_call_makes_it_none(self) -> None:
        found = seen(WholeReader(TOOLS), f"{CALL}; {CALL}")
        assert found == Seen(f"{CALL}; {CALL}", (("weather", '{"city": "Rome"'),), (0,), 0)


class TestKnown:
    def test_templates_tell(self) -> None:
        llama = """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}. ' }}"""
        found = known_format(llama)
        assert found is not None and found.name == "llama"
        assert known_format(llama.replace('"', '\\"')) is found
        harmony = (
            '{{ "<|start|>assistant to=" }}{{ "functions." + call.name + "<|channel|>commentary json<|message|>" }}'
        )
        assert known_format(harmony) is HARMONY
        for name in ("tool_call", "TOOLCALL"):
            marked = known_format(f"{{{{ tools }}}}<{name}>{{{{ call['name'] }}}}</{name}>")
            assert marked is not None
            said = (
                f'<{name}>[{{"name": "weather", "arguments": {ROME}}}, {{"name": "time", "arguments": {{}}}}]</{name}>'
            )
            assert seen(MarkedReader(marked, TOOLS), said) == Seen("", (("weather", ROME), ("time", "{}")), (), 2)
        assert known_format("{{ messages }}{{ tools }}") is known_format(None) is None


ANALYSIS, NEXT = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant"
ROME = '{"city": "Rome"}'
HARMONY_CALLS = {
    "as the template has it": f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ROME}<|call|>",
    "without a constraint": f"<|channel|>commentary to=functions.weather<|message|>{ROME}<|call|>",
    "json as a word": f"<|channel|>commentary to=functions.weather json<|message|>{ROME}<|call|>",
    "recipient first": f" to=functions.weather<|channel|>commentary json<|message|>{ROME}<|call|>",
    "on the channel of thoughts": f"<|channel|>analysis to=functions.weather<|message|>{ROME}<|call|>",
    "after thoughts": f"{ANALYSIS}Hm.{NEXT}<|channel|>commentary to=functions.weather<|message|>\n{ROME}\n<|call|>",
    "recipient in the role": f"{ANALYSIS}Hm.{NEXT} to=functions.weather<|channel|>commentary<|message|>{ROME}<|call|>",
    "closed by the token that ends the answer": f"<|channel|>commentary to=functions.weather<|message|>{ROME}",
    "closed as other messages are": f"<|channel|>commentary to=functions.weather<|message|>{ROME}<|end|>",
}


def in_harmony(pieces: Iterable[str], *, is_cut: bool = False) -> tuple[str, Seen]:
    """Return the reasoning, and what came of the answer."""
    splitter = BY_NAME["harmony"].with_calls().splitter("<|start|>user<|message|>How?<|end|><|start|>assistant")
    split = [part for piece in pieces for part in splitter.feed(piece)]
    split += splitter.finish()
    thoughts = "".join(text for channel, text in split if channel == "reasoning")
    answer = [text for channel, text in split if channel == "answer"]
    return thoughts, seen(MarkedReader(HARMONY, TOOLS), answer, is_cut=is_cut)


class TestHarmony:
    @pytest.mark.parametrize("text", HARMONY_CALLS.values(), ids=HARMONY_CALLS)
    def test_a_message_to_a_function_is_a_call(self, text: str) -> None:
        for pieces in ([text], text):
            thoughts, found = in_harmony(pieces)
            assert found == Seen("", (("weather", ROME),), (), 1)
            assert thoughts == ("Hm." if "Hm." in text else "")

    @given(
        st.lists(
            st.sampled_from([*HARMONY_CALLS.values(), *FRAGMENTS, "<|start|>assistant", "<|end|>", ANALYSIS]),
            max_size=5,
        ),
        st.lists(st.integers(0, 30), max_size=30),
        st.booleans(),
    )
    def test_any_chunking_tells_the_same(self, parts: list[str], sizes: list[int], is_cut: bool) -> None:
        text = "".join(parts)
        whole = in_harmony([text], is_cut=is_cut)
        assert in_harmony(cut_up(text, sizes), is_cut=is_cut) == in_harmony(text, is_cut=is_cut) == whole

    def test_calls_and_an_answer_may_follow_each_other(self) -> None:
        call = f"<|channel|>commentary to=functions.weather<|message|>{ROME}<|call|>"
        text = f"{ANALYSIS}Hm.{NEXT}{call}<|start|>assistant{call}<|start|>assistant<|channel|>final<|message|>Sun."
        for pieces in ([text], text):
            thoughts, found = in_harmony(pieces)
            assert (thoughts, found.text.strip()) == ("Hm.", "Sun.")
            assert found.calls == (("weather", ROME),) * 2 and found.complete == 2

    @pytest.mark.parametrize("value", ["<|call|>", "<|end|>", "<|start|>assistant", "<|message|>"])
    def test_strings_may_hold_marks(self, value: str) -> None:
        arguments = json.dumps({"city": value})
        text = f"<|channel|>commentary to=functions.weather<|message|>{arguments}<|call|>"
        assert in_harmony(text) == ("", Seen("", (("weather", arguments),), (), 1))

    def test_what_is_cut_stays_a_call(self) -> None:
        text = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Ro'
        assert in_harmony(text, is_cut=True) == ("", Seen("", (("weather", '{"city": "Ro'),), (), 0))

    @pytest.mark.parametrize("arguments", ['{"city": }', '{"city": "Rome"} and more', '{"city"', "Rome"])
    @pytest.mark.parametrize("name", ["weather", "other"])
    def test_what_is_no_call_is_text(self, name: str, arguments: str) -> None:
        thoughts, found = in_harmony(f"<|channel|>commentary to=functions.{name}<|message|>{arguments}<|call|>")
        assert (thoughts, found.complete) == ("", 0)
        assert f"to=functions.{name}" in found.text and arguments in found.text

    def test_what_no_object_follows_is_shown_at_once(self) -> None:
        splitter = BY_NAME["harmony"].with_calls().splitter("<|start|>assistant")
        reader = MarkedReader(HARMONY, TOOLS)
        said = ""
        for char in "<|channel|>commentary to=functions.weather<|message|> Rome":
            said += "".join(
                part if isinstance(part, str) else "(part of a call)"
                for _, text in splitter.feed(char)
                for part in reader.feed(text)
            )
        assert said.startswith("<|start|>assistant to=functions.weather") and said.endswith("Rome")

    def test_a_call_without_arguments_is_one(self) -> None:
        assert in_harmony("<|channel|>commentary to=functions.time<|message|><|call|>")[1].calls == (("time", "{}"),)

    def test_messages_to_others_stay_thoughts(self) -> None:
        thoughts, found = in_harmony(
            f"<|channel|>commentary to=browser.search<|message|>{ROME}{NEXT}<|channel|>final<|message|>a"
        )
        assert (thoughts, found.text, found.calls) == (ROME, "a", ())


def long_arguments(size: int) -> None:
    reader = MarkedReader(JSON, TOOLS)
    for piece in ['<tool_call>{"name": "weather", "arguments": {"city": "', *["ab"] * size, '"}}', "</tool_call>"]:
        reader.feed(piece)
    assert reader.calls == 1


def long_second_call(size: int) -> None:
    reader = MarkedReader(JSON, TOOLS)
    for piece in [GOOD, '<tool_call>{"name": "time", "arguments": {"a": [', *["1,"] * size, "1]}}</tool_call>"]:
        reader.feed(piece)
    assert reader.calls == 2


def long_call_of_another_form(size: int) -> None:
    reader = MarkedReader(ToolFormat("code", "<call>", "</call>", lambda text, tools: {"name": "time"}), TOOLS)
    for piece in ["<call>", *["ab"] * size, "</call>"]:
        reader.feed(piece)
    assert reader.calls == 1


def long_whole_answer(size: int) -> None:
    reader = WholeReader(TOOLS)
    for piece in ['{"parameters": {"city": "', *["ab"] * size, '"}, "name": "weather"}']:
        reader.feed(piece)
    reader.finish()
    assert reader.calls == 1


def long_space(size: int) -> None:
    for reader in (WholeReader(TOOLS), MarkedReader(JSON, TOOLS)):
        for char in "\n" * size:
            reader.feed(char)
        reader.finish()


def long_name(size: int) -> None:
    reader = MarkedReader(HARMONY, TOOLS)
    for piece in [HARMONY.start, *["ab"] * size, HARMONY.end]:
        reader.feed(piece)
    assert reader.calls == 0


@pytest.mark.parametrize(
    "work", [long_arguments, long_second_call, long_call_of_another_form, long_whole_answer, long_space, long_name]
)
def test_time_is_linear(work: Callable[[int], None]) -> None:
    """Eight times the text takes some eight times as long; quadratic work would take sixty-four times."""
    assert cpu_seconds(work, 80_000) < 30 * cpu_seconds(work, 10_000)


def test_a_name_that_does_not_end_costs_little() -> None:
    assert cpu_seconds(long_name, 1_000) < 5 * cpu_seconds(long_second_call, 1_000) + 0.05


@pytest.mark.parametrize("part", ["[", '{"a":', "[[],", '"x", '])
def test_the_complete_part_is_found_in_linear_time(part: str) -> None:
    def work(size: int) -> None:
        complete_part("[" + part * size)

    assert cpu_seconds(work, 80_000) < 30 * cpu_seconds(work, 10_000)
