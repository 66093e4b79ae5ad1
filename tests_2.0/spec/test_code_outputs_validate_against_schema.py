"""What `mlxk2 schema COMMAND` prints is enough to check what the command prints, successes and errors alike.

`call` holds every answer against the whole schema already. Here it is the part that a script gets for one command,
which leaves definitions out, and it must also refuse what is wrong.
"""

from __future__ import annotations

import json
from functools import cache as once

import jsonschema
import pytest
from support import cache_builder as build
from support.call import SCHEMA, call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A

from mlxk2 import envelope

pytestmark = pytest.mark.spec


@once
def printed_schema(command: str) -> jsonschema.Draft7Validator:
    schema = json.loads(call("schema", command).stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.fixture
def cache(isolated_cache: IsolatedCache) -> IsolatedCache:
    """Sound, broken, GGUF and embedding models, one that is an empty folder, and two with names that begin alike."""
    sound = build.chat_model(quantization={"bits": 4, "group_size": 64})
    base = {name: content for name, content in sound.items() if name != "tokenizer_config.json"}
    models = {
        "mlx-community/tiny-Instruct": sound,
        "mlx-community/tiny-base": base,
        "org/broken": {**sound, "model.safetensors": sound["model.safetensors"][:-1]},
        "org/gguf": build.gguf_model(),
        "org/embed": build.embedding_model(),
        "org/list-config": {**sound, "config.json": b"[]"},
    }
    for name, files in models.items():
        build.Repo(isolated_cache.hub, name).snapshot(files, COMMIT_A)
    (isolated_cache.hub / "models--org--empty").mkdir()
    return isolated_cache


SUCCESSES = [
    ("list",),
    ("list", "tiny"),
    ("list", "no-such-model"),
    ("show", "tiny-Instruct"),
    ("show", "tiny-Instruct", "--files"),
    ("show", "tiny-Instruct", "--config"),
    ("show", "tiny-Instruct", "--path"),
    ("show", "org/broken"),
    ("show", "org/gguf"),
    ("health",),
    ("health", "tiny"),
    ("health", "no-such-model"),
    ("health", "--deep"),
    ("pull", "tiny-Instruct"),
    ("pull", "mlx-community/tiny-base@main"),
    ("rm", "org/broken", "--dry-run"),
    ("rm", "broken"),
    ("rm", "org/broken", "--force"),
    ("rm", f"org/gguf@{COMMIT_A[:8]}", "--force"),
    ("schema",),
    *(("schema", command) for command in envelope.COMMANDS),
    ("version",),
]
FAILURES = [
    ("show", "no-such-model"),
    ("show", "tiny"),
    ("show", "org/broken@cafe1234"),
    ("show", "org/empty", "--config"),
    ("health", "--strict"),
    ("health", "org/broken", "--strict"),
    ("pull", "org/no-such-model"),
    ("pull", ""),
    ("rm", "no-such-model"),
    ("rm", "tiny", "--force"),
    ("run", "no-such-model", "hello"),
    ("run", "org/broken", "hello"),
    ("run", "org/gguf", "hello"),
    ("convert", "org/no-such-model", "./target"),
    ("convert", "./no-such-folder", "./target"),
]


@pytest.mark.parametrize("words", SUCCESSES, ids=" ".join)
def test_the_commands_own_schema_accepts_its_answer_and_refuses_a_wrong_one(
    words: tuple[str, ...], cache: IsolatedCache
) -> None:
    result = call(*words, "--json", env=cache.env)
    assert (result.code, result.json["status"]) == (0, "success"), result.stdout
    schema = printed_schema(words[0])
    schema.validate(result.json)
    for wrong in ({"command": "other"}, {"data": {"nonsense": 1}}, {"data": None}, {"error": {"type": "x"}}):
        assert not schema.is_valid({**result.json, **wrong}), wrong


@pytest.mark.parametrize("words", FAILURES, ids=" ".join)
def test_the_commands_own_schema_accepts_its_errors(words: tuple[str, ...], cache: IsolatedCache) -> None:
    result = call(*words, "--json", env={**cache.env, "HF_HUB_OFFLINE": "1"})
    assert (result.code, result.json["status"]) == (1, "error"), result.stdout
    assert result.error["type"] not in ("InternalError", "CommandError")
    schema = printed_schema(words[0])
    schema.validate(result.json)
    assert not schema.is_valid({**result.json, "error": {"message": "an error without a type"}})


@pytest.mark.parametrize("command", envelope.COMMANDS)
def test_the_commands_own_schema_accepts_a_usage_error(command: str) -> None:
    result = call(command, "--no-such-flag", "--json", env={"MLXK2_ENABLE_ALPHA_FEATURES": "1"})
    assert (result.code, result.error["type"]) == (2, "CommandError")
    printed_schema(command).validate(result.json)


def test_the_schema_is_the_same_printed_and_in_an_answer() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert json.loads(call("schema").stdout) == call("schema", "--json").data["schema"] == SCHEMA


def test_every_command_has_a_definition_of_its_own() -> None:
    answers = {reference["$ref"].rsplit("/", 1)[1] for reference in SCHEMA["oneOf"]}
    assert answers == {*envelope.COMMANDS, "none"}
