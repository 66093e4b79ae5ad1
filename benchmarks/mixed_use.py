"""What many people ask of one server: a burst of requests of every kind, always the same kinds and lengths, in another order."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from serving_client import CHAT, Call, Server, chat, request

WORDS = ("sea", "bread", "violin", "glass", "river", "honey", "chess", "moon")
SHORT, MIDDLE, LONG = 3, 30, 200
SYSTEM = {"role": "system", "content": "You are a poet of the sea. " * 20}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look", "parameters": SCHEMA}}
# Takes tools, and shows how the model would write a call.
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }};{# <tool_call>{{ tool_call.name }} #}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Ask(NamedTuple):
    """A request and the status that is right; with `is_cut` the client leaves as soon as the answer has begun."""

    path: str
    body: dict[str, Any]
    status: int = 200
    is_cut: bool = False


def burst(draw: random.Random, model: str) -> list[Ask]:
    """Return forty requests; only the words and the order differ from one time to the next."""
    asks = [*_chats(draw), *_constrained(draw), *_elsewhere(draw, model), *_cut_short(draw), *_refused(draw, model)]
    draw.shuffle(asks)
    return asks


def busiest(draw: random.Random, count: int) -> list[Ask]:
    """Return the longest prompts and answers, as many as are answered side by side."""
    return [Ask(CHAT, chat(_text(draw, LONG), 120)) for _ in range(count)]


def answer(server: Server, ask: Ask) -> str | None:
    """Return what went wrong, None where nothing did."""
    if ask.is_cut:
        call = Call(server.port, ask.body, ask.path)
        call.begin()
        call.socket.close()
        return None
    reply = request(server.port, ask.body, ask.path)
    if reply.status == ask.status and (ask.status != 200 or b'"error":{' not in reply.raw):
        return None
    return f"{ask.path} {ask.body}: {reply.status} {reply.raw[-300:]!r}"


def _text(draw: random.Random, words: int) -> str:
    return " ".join((*draw.choices(WORDS, k=words), str(draw.randrange(10**9))))


def _chats(draw: random.Random) -> list[Ask]:
    """Streams and whole answers, greedy and drawn, with and without a common beginning, with log probabilities."""
    lengths = ((SHORT, 1), (SHORT, 40), (SHORT, 120), (MIDDLE, 8), (MIDDLE, 120), (LONG, 8), (LONG, 40), (LONG, 120))
    bodies = [chat(_text(draw, words), tokens) for words, tokens in lengths]
    lengths = ((SHORT, 8), (MIDDLE, 40), (LONG, 1), (LONG, 120))
    bodies += [chat(_text(draw, words), tokens, stream=False) for words, tokens in lengths]
    for words, tokens in ((SHORT, 8), (SHORT, 40), (MIDDLE, 8), (MIDDLE, 40)):
        bodies.append(chat("", tokens, messages=[SYSTEM, {"role": "user", "content": _text(draw, words)}]))
    drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.5}
    bodies += [chat(_text(draw, words), tokens, **drawn) for words, tokens in ((SHORT, 40), (MIDDLE, 120), (LONG, 40))]
    told = {"stream": False, "logprobs": True, "top_logprobs": 3, "stop": ["e"]}
    bodies += [chat(_text(draw, words), tokens, **told) for words, tokens in ((SHORT, 40), (MIDDLE, 40), (LONG, 8))]
    return [Ask(CHAT, body) for body in bodies]


def _constrained(draw: random.Random) -> list[Ask]:
    """Answers that are held to a JSON schema, and tools: one that must be called, any, and if the model likes."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    bodies = [chat(_text(draw, words), 30, stream=False, response_format=schema) for words in (SHORT, MIDDLE, LONG)]
    name = {"type": "function", "function": {"name": "look"}}
    bodies += [
        chat(_text(draw, SHORT), 30, tools=[TOOL], tool_choice=name),
        chat(_text(draw, MIDDLE), 30, tools=[TOOL], tool_choice="required", stream=False),
        chat(_text(draw, MIDDLE), 40, tools=[TOOL]),
    ]
    return [Ask(CHAT, body) for body in bodies]


def _elsewhere(draw: random.Random, model: str) -> list[Ask]:
    """The other addresses."""
    asks = []
    for tokens in (8, 40):
        prompts = [_text(draw, MIDDLE), _text(draw, SHORT)]
        asks.append(Ask("/v1/completions", {"prompt": prompts, "max_tokens": tokens, "temperature": 0}))
    for words in (SHORT, LONG):
        body: dict[str, Any] = {"input": _text(draw, words), "max_output_tokens": 40, "temperature": 1}
        asks.append(Ask("/v1/responses", body))
        turns = [{"role": "user", "content": _text(draw, words)}]
        asks.append(Ask("/v1/messages", {"model": model, "messages": turns, "max_tokens": 40}))
    return asks


def _cut_short(draw: random.Random) -> list[Ask]:
    return [Ask(CHAT, chat(_text(draw, words), 400), is_cut=True) for words in (SHORT, MIDDLE, LONG)]


def _refused(draw: random.Random, model: str) -> list[Ask]:
    """What cannot be answered: an error with the right status is what is wanted."""
    return [
        Ask("/v1/embeddings", {"model": model, "input": _text(draw, SHORT)}, 422),
        Ask(CHAT, chat(_text(draw, SHORT), -1), 400),
        Ask(CHAT, {"messages": "none"}, 400),
    ]
