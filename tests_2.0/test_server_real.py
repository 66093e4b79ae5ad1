"""Real chat models answer through the server: the small one always, larger ones where the user has them and they fit.

The models are looked for in the user's cache (`MLXK2_USER_HF_HOME`, else `HF_HOME`, else ~/.cache/huggingface), the first
4-bit chat model of each size; a variable such as `MLXK2_SERVER_MODEL_7B` names another one. What does not fit into this
machine's memory is skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.isolation import USER_ENVIRON
from support.real_server import MARKS, RealServer, real_server, said
from support.smollm2 import smollm2

pytestmark = [*MARKS, pytest.mark.server_real]

# Size as names spell it -> how much memory the machine must have, in GB; all 4-bit.
MEMORY_GB = {"0.5B": 1, "1B": 2, "3B": 4, "7B": 8, "8x7B": 32, "30B": 40, "70B": 80}
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def user_home() -> Path:
    named = USER_ENVIRON.get("MLXK2_USER_HF_HOME") or USER_ENVIRON.get("HF_HOME")
    return Path(named) if named else Path(USER_ENVIRON.get("HOME", "/")) / ".cache" / "huggingface"


def machine_memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def is_of_size(folder: str, size: str) -> bool:
    """Tell whether a folder of the cache is that of a 4-bit chat model with so many parameters."""
    name = folder.lower()
    number = rf"(?<![\d.x]){re.escape(size.lower())}(?![a-z0-9])"
    return "4bit" in name and any(word in name for word in ("instruct", "chat")) and re.search(number, name) is not None


def model_of_size(size: str) -> str:
    """Return the name of a model in the user's cache; skips the test where there is none, or no room for it."""
    needed, there = MEMORY_GB[size], machine_memory_gb()
    if there < needed:
        pytest.skip(f"a {size} model needs {needed} GB of memory, this machine has {there:.1f}")
    named = USER_ENVIRON.get("MLXK2_SERVER_MODEL_" + size.replace(".", "_").upper())
    if named:
        return named
    hub = user_home() / "hub"
    names = sorted(path.name for path in hub.glob("models--*")) if hub.is_dir() else []
    found = next((name for name in names if is_of_size(name, size)), None)
    if found is None:
        pytest.skip(f"no 4-bit chat model with {size} parameters in {hub}")
    return found[len("models--") :].replace("--", "/")


@pytest.fixture(scope="module")
def smallest() -> Iterator[RealServer]:
    with real_server(smollm2()) as started:
        yield started


def ask(server: RealServer, question: str, limit: int = 400) -> str:
    return said(server.chat(messages=[{"role": "user", "content": question}], temperature=0, max_tokens=limit))


def check_answers(server: RealServer) -> None:
    """Whole and streamed, it knows the capital of France, and comes to an end by itself."""
    body = {"model": server.model, "messages": QUESTION, "temperature": 0, "max_tokens": 400, "stream": True}
    text, reason = "", None
    with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                text, reason = text + (choice["delta"].get("content") or ""), choice["finish_reason"]
    assert ("Paris" in text, reason) == (True, "stop"), text
    assert ask(server, QUESTION[0]["content"]) == text


def test_the_small_model_answers(smallest: RealServer) -> None:
    check_answers(smallest)


@pytest.mark.parametrize("size", MEMORY_GB)
def test_a_model_of_the_user_answers(size: str) -> None:
    name = model_of_size(size)
    with real_server(Path(name), env={"HF_HOME": str(user_home())}) as server:
        check_answers(server)


def test_who_else_asks_changes_no_greedy_answer(smallest: RealServer) -> None:
    questions = [f"What is {number} plus {number}?" for number in range(2, 5)]
    alone = [ask(smallest, question, 8) for question in questions]
    with ThreadPoolExecutor(len(questions)) as pool:
        assert list(pool.map(lambda question: ask(smallest, question, 8), questions)) == alone


def test_the_conversation_before_is_read_once(smallest: RealServer) -> None:
    first = smallest.chat(messages=QUESTION, temperature=0, max_tokens=8)
    turns = [*QUESTION, {"role": "assistant", "content": said(first)}, {"role": "user", "content": "And of Italy?"}]
    usage = smallest.chat(messages=turns, temperature=0, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first.json()["usage"]["prompt_tokens"] - 8
    assert usage["prompt_tokens"] > first.json()["usage"]["prompt_tokens"]


def test_models_of_a_size_are_told_by_their_names() -> None:
    for size, folder in (
        ("0.5B", "models--mlx-community--Qwen2.5-0.5B-Instruct-4bit"),
        ("1B", "models--mlx-community--Llama-3.2-1B-Instruct-4bit"),
        ("8x7B", "models--mlx-community--Mixtral-8x7B-Instruct-v0.1-hf-4bit"),
        ("7B", "models--mlx-community--Mistral-7B-Instruct-v0.3-4bit"),
    ):
        assert [one for one in MEMORY_GB if is_of_size(folder, one)] == [size]
    assert not is_of_size("models--mlx-community--Mistral-7B-v0.3-4bit", "7B")
    assert not is_of_size("models--org--X-7B-Instruct", "7B")
