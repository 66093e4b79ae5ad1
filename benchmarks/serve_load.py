"""A thousand requests of every kind, eight at a time: none may fail, and the memory of both processes must stay flat.

The prefix cache is kept so small that it is full after the warm-up; what grows afterwards is a leak.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import openblas
from processes import family, resident_bytes
from serve_speed import TINY
from serving_client import CHAT, Call, Server, chat, ours, request
from support.random_models import random_model
from table import print_table, verdict

REQUESTS, WARM_UP, ROUND, AT_A_TIME, FLAT = 1000, 300, 20, 8, 0.05
WORDS = ("sea", "bread", "violin", "glass", "river", "honey", "chess", "moon")
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
Ask = tuple[str, dict[str, Any]]


def main() -> None:
    """Send everything and print one table."""
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "tiny", "llama", config=TINY)
        with ours(model, "--prefix-cache-bytes", "16MB") as server, ThreadPoolExecutor(AT_A_TIME) as pool:
            load(server, pool)


def load(server: Server, pool: ThreadPoolExecutor) -> None:
    """Send the requests in rounds, and look at the memory after each: it goes up and down with what is being answered."""
    asks = list(mixed(random.Random(1)))
    failed: list[str] = []
    sizes: list[dict[str, int]] = []
    for start in range(0, REQUESTS, ROUND):
        for problem in pool.map(lambda ask: answer(server, *ask), asks[start : start + ROUND]):
            failed += filter(None, [problem])
        if start >= WARM_UP:
            pids = family(server.pid)
            sizes.append({name: resident_bytes(pid) for name, pid in zip(("HTTP side", "engine"), pids)})
    rows = [("requests that failed", str(len(failed)), f"0: {verdict(not failed)}")]
    for name in sizes[0]:
        values, half = [size[name] for size in sizes], len(sizes) // 2
        first, last = median(values[:half]), median(values[half:])
        grown = last / first - 1
        figure = f"{first / 1e6:.0f} MB, {last / 1e6:.0f} MB ({grown:+.1%}); {max(values) / 1e6:.0f} MB at most"
        rows.append((f"memory of the {name}, median of two halves", figure, f"+5 %: {verdict(grown <= FLAT)}"))
    print_table(f"serve: {REQUESTS} requests of mixed use, {AT_A_TIME} at a time", ("what", "figure", "target"), rows)
    for problem in failed[:5]:
        print(problem, file=sys.stderr)


def mixed(draw: random.Random) -> Iterator[Ask]:
    """Yield requests of every kind, short ones and long ones."""
    for number in range(REQUESTS):
        text = " ".join(draw.choices(WORDS, k=draw.choice((3, 3, 30, 200)))) + f" {number}"
        yield kinds(text, draw.choice((1, 8, 40, 120)), number)[draw.randrange(10)]


def kinds(text: str, tokens: int, seed: int) -> tuple[Ask, ...]:
    """Return one request of each kind."""
    system = {"role": "system", "content": "You are a poet of the sea. " * 20}
    whole = chat(text, tokens, stream=False)
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    return (
        (CHAT, chat(text, tokens)),
        (CHAT, whole),
        (CHAT, chat(text, tokens, messages=[system, {"role": "user", "content": text}])),
        (CHAT, chat(text, tokens, temperature=0.8, top_p=0.9, seed=seed, frequency_penalty=0.5)),
        (CHAT, {**whole, "logprobs": True, "top_logprobs": 3, "stop": ["e"]}),
        (CHAT, {**whole, "response_format": schema, "max_tokens": 30}),
        (CHAT, chat(text, 400)),
        ("/v1/completions", {"prompt": [text, text[:20]], "max_tokens": tokens, "temperature": 0}),
        ("/v1/responses", {"input": text, "max_output_tokens": tokens, "temperature": 1}),
        ("/v1/messages", {"model": "", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}),
    )


def answer(server: Server, path: str, body: dict[str, Any]) -> str | None:
    """Return what went wrong; a client that asks for much leaves in the middle."""
    if path == "/v1/messages":
        body = {**body, "model": server.model}
    if body.get("max_tokens") == 400:
        call = Call(server.port, body, path)
        call.begin()
        call.socket.close()
        return None
    reply = request(server.port, body, path)
    if reply.status == 200 and b'"error":{' not in reply.raw:
        return None
    return f"{path} {body}: {reply.raw[-300:]!r}"


if __name__ == "__main__":
    openblas.restarted()
    main()
