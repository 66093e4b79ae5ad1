"""What the commands print is valid by a second validator, the `jsonschema` library; the program itself uses a compiled one."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from support.call import call
from support.isolation import IsolatedCache

from mlxk2 import envelope
from mlxk2.spec import SCHEMA_PATH

pytestmark = pytest.mark.spec
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(8)
COMMIT = "b" * 40


def add_model(hub: Path, name: str, files: dict[str, bytes]) -> None:
    """Put a model into the cache the plain way; the cache builder's own tests look at links and blobs."""
    repo = hub / ("models--" + name.replace("/", "--"))
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for file, content in files.items():
        (snapshot / file).write_bytes(content)


@pytest.fixture
def cache(isolated_cache: IsolatedCache) -> IsolatedCache:
    """Sound, broken, GGUF and embedding models, one that is an empty folder, and two with names that begin alike."""
    config = json.dumps(
        {"model_type": "llama", "max_position_embeddings": 64, "quantization": {"bits": 4, "group_size": 64}}
    )
    sound = {"config.json": config.encode(), "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
    add_model(isolated_cache.hub, "mlx-community/tiny-Instruct", {**sound, "chat_template.jinja": b"x"})
    add_model(isolated_cache.hub, "mlx-community/tiny-base", sound)
    add_model(isolated_cache.hub, "org/broken", {**sound, "model.safetensors": WEIGHTS[:-1]})
    add_model(isolated_cache.hub, "org/gguf", {"config.json": b"{}", "model.gguf": b"GGUF"})
    add_model(isolated_cache.hub, "org/embed", {**sound, "README.md": b"---\npipeline_tag: feature-extraction\n---\n"})
    add_model(isolated_cache.hub, "org/list-config", {**sound, "config.json": b"[]"})
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
    ("rm", "org/broken", "--dry-run"),
    ("rm", "broken"),
    ("rm", "org/broken", "--force"),
    ("rm", f"org/gguf@{COMMIT[:8]}", "--force"),
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
    ("rm", "no-such-model"),
    ("rm", "tiny", "--force"),
    ("run", "no-such-model", "hello"),
    ("run", "org/broken", "hello"),
    ("run", "org/gguf", "hello"),
    ("convert", "org/no-such-model", "./target"),
    ("convert", "./no-such-folder", "./target"),
]


@pytest.mark.parametrize("words", SUCCESSES, ids=" ".join)
def test_success_is_valid(words: tuple[str, ...], cache: IsolatedCache) -> None:
    result = call(*words, "--json", env=cache.env)
    answer = json.loads(result.stdout)
    assert (result.code, answer["status"]) == (0, "success"), result.stdout
    jsonschema.Draft7Validator(SCHEMA).validate(answer)


@pytest.mark.parametrize("words", FAILURES, ids=" ".join)
def test_failure_is_valid(words: tuple[str, ...], cache: IsolatedCache) -> None:
    result = call(*words, "--json", env=cache.env)
    answer = json.loads(result.stdout)
    assert (result.code, answer["status"]) == (1, "error"), result.stdout
    assert answer["error"]["type"] not in ("InternalError", "CommandError")
    jsonschema.Draft7Validator(SCHEMA).validate(answer)


def test_the_printed_schema_validates_the_printed_answers(cache: IsolatedCache) -> None:
    """What a script can get from `mlxk2 schema list` is enough to check what it gets from `mlxk2 list`."""
    schema = json.loads(call("schema", "list", env=cache.env).stdout)
    answer = call("list", "--json", env=cache.env).json
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(answer)
    assert not validator.is_valid({**answer, "data": {"models": "none"}})


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_every_command_has_a_definition_of_its_own() -> None:
    answers = {reference["$ref"].rsplit("/", 1)[1] for reference in SCHEMA["oneOf"]}
    assert answers == {*envelope.COMMANDS, "none"}
