"""Structured output through the front door and on the real engine: what is asked for comes out, or an error says why."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time

import jsonschema
import pytest
from conftest_runner import chat, drain
from support.call import call
from support.smollm2 import smollm2
from support.tiny_model import CHATML, EOS, TinyOptions, scripted_model, tiny_model

from mlxk2 import errors
from mlxk2.runner.constraint import Constraint, read_schema, split_choices
from mlxk2.runner.grammar import Grammar
from mlxk2.runner.request import Sampling

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["alpha", None]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
NUMBERS = {"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.5}, "maxItems": 3}
TREE = {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]}
EITHER = {"oneOf": [{"type": "string", "pattern": "^[a-c]{2,4}$"}, {"type": "boolean"}]}
SCHEMAS = (PERSON, NUMBERS, TREE, EITHER)
MARKERS = ("<think>", "</think>")
WILD = ("--temperature", "1", "--top-p", "1", "--repetition-penalty", "1")
ANSWER = '{"name":"Bob","age":23,"kind":null}'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model: left alone it says nothing that makes sense."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", TinyOptions(context_length=2048))


@pytest.fixture
def run(isolated_cache):
    return lambda path, *flags: call("run", str(path), "hi", *flags, "--json", env=isolated_cache.env)


def thinking_model(path, pieces, opened_by="model"):
    """A model that says `pieces`, and knows `<think>` and `</think>`; the model or the prompt opens its reasoning."""
    template = CHATML + "{% if false %}<think></think>{% endif %}"
    if opened_by == "prompt":
        template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}{# </think> #}")
    script = ["<think>", *pieces] if opened_by == "model" else list(pieces)
    # Behind the end of the answer, where they are never said, the markers are still tokens.
    script += [marker for marker in MARKERS if marker not in script]
    folder = scripted_model(path, pieces=script, options=TinyOptions(chat_template=template, context_length=2048))
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocab = document["model"]["vocab"]
    document["added_tokens"] += [{"id": vocab[marker], "content": marker, **flags} for marker in MARKERS]
    file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return folder


# --- the answer -------------------------------------------------------------------------------------------------


@pytest.mark.mlx_real
def test_a_model_that_says_it_anyway_is_not_disturbed(tmp_path, run):
    path = scripted_model(tmp_path / "model", pieces=['{"name":"', "Bob", '","age":', "23", ',"kind":', "null}"])
    answer = run(path, "--json-schema", "{}")
    assert answer.data["response"] == ANSWER
    assert answer.data["parsed"] == {"name": "Bob", "age": 23, "kind": None}
    assert (answer.data["finish_reason"], answer.data["usage"]["completion_tokens"]) == ("stop", 7)


@pytest.mark.mlx_real
@pytest.mark.parametrize("pieces", [['{"a"', ":1", ',"b":', "2", "}"], ['{"a"', ": 1", ", ", '"b": ', "2", "}"]])
def test_json_may_be_compact_or_have_the_space_that_models_are_used_to(tmp_path, run, pieces):
    answer = run(scripted_model(tmp_path / "model", pieces=pieces), "--json-schema", "{}")
    assert (answer.data["response"], answer.data["parsed"]) == ("".join(pieces), {"a": 1, "b": 2})


@pytest.mark.parametrize("text", ['{"a":  1}', '{ "a":1}', '{"a":1}\n', '{\n"a":1}', '{"a" :1}'])
def test_no_other_whitespace_is_ever_asked_of_a_model(tmp_path, text):
    grammar = Grammar.load(tiny_model(tmp_path / "model") / "tokenizer.json", 266, frozenset([1]))
    mask = grammar.mask(Constraint.json_schema("{}"))
    mask.advance(grammar.tokenized(text.encode()))
    assert mask.failure is not None and not mask.complete


@pytest.mark.mlx_real
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("schema", SCHEMAS, ids=["person", "numbers", "tree", "either"])
def test_a_random_model_gives_values_of_the_schema(model, run, tmp_path, schema, seed):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema, indent=2), encoding="utf-8")
    answer = run(model, "--json-schema", str(file), "--seed", str(seed), *WILD)
    assert answer.code == 0, answer.error
    assert json.loads(answer.data["response"]) == answer.data["parsed"]
    jsonschema.Draft202012Validator(schema).validate(answer.data["parsed"])


@pytest.mark.mlx_real
def test_a_hundred_answers_of_one_runner_are_all_values(model, runner_of):
    runner = runner_of(model)
    for seed in range(100):
        schema = SCHEMAS[seed % len(SCHEMAS)]
        constraint = Constraint.json_schema(json.dumps(schema))
        sampling = Sampling(temperature=1, top_p=1, repetition_penalty=1, seed=seed)
        answer = drain(runner.generate(chat(constraint=constraint, sampling=sampling))).answer
        assert (answer.finish_reason, answer.complete, answer.failure) == ("stop", True, None)
        jsonschema.Draft202012Validator(schema).validate(constraint.value(answer.text))


@pytest.mark.mlx_real
@pytest.mark.parametrize("spm", [False, True], ids=["bytes", "spm"])
def test_patterns_and_choices(tmp_path, run, spm):
    path = tiny_model(tmp_path / "model", TinyOptions(spm=spm, context_length=2048))
    for seed in map(str, range(5)):
        number = run(path, "--regex", r"^-?[0-9]{2,4}( EUR)?$", "--seed", seed, *WILD)
        assert re.fullmatch(r"-?[0-9]{2,4}( EUR)?", number.data["parsed"])
        assert number.data["parsed"] == number.data["response"]
        assert run(path, "--choices", " yes,no, it's not", "--seed", seed, *WILD).data["parsed"] in (
            " yes", "no", " it's not",
        )  # fmt: skip
        assert run(path, "--choices", '["a, b","é"]', "--seed", seed, *WILD).data["parsed"] in ("a, b", "é")


@pytest.mark.mlx_real
def test_without_json_the_answer_alone_is_printed(tmp_path, isolated_cache):
    path = scripted_model(tmp_path / "model", pieces=["ye", "s"])
    answer = call("run", str(path), "hi", "--choices", "yes,no", env=isolated_cache.env)
    assert (answer.code, answer.stdout, answer.stderr) == (0, "yes\n", "")


def test_an_answer_without_a_constraint_has_no_value(tmp_path, run):
    assert "parsed" not in run(scripted_model(tmp_path / "model", pieces=["1"])).data


@pytest.mark.mlx_real
def test_penalties_and_bias_cannot_push_an_answer_out_of_its_schema(model, run):
    pushed = ("--repetition-penalty", "50", "--presence-penalty", "2", "--logit-bias", "5=100", "--top-k", "2")
    answer = run(model, "--json-schema", json.dumps(PERSON), "--seed", "1", "--temperature", "2", *pushed)
    assert answer.code == 0, answer.error
    jsonschema.validate(answer.data["parsed"], PERSON)


# --- thinking ---------------------------------------------------------------------------------------------------


@pytest.mark.mlx_real
@pytest.mark.parametrize("opened_by", ["model", "prompt"])
def test_a_model_may_think_first(tmp_path, run, opened_by):
    path = thinking_model(tmp_path / "model", ["yes, ", "or no", "</think>", "no"], opened_by)
    answer = run(path, "--choices", "yes,no")
    assert (answer.data["reasoning"], answer.data["response"], answer.data["parsed"]) == ("yes, or no", "no", "no")


@pytest.mark.mlx_real
@pytest.mark.parametrize("opened_by", ["model", "prompt"])
def test_what_follows_a_thought_keeps_to_the_schema(tmp_path, run, opened_by):
    """The script would end behind its thought; from there the model can only say anything that is allowed."""
    path = thinking_model(tmp_path / "model", ["hm", "</think>"], opened_by)
    for seed in map(str, range(4)):
        answer = run(path, "--json-schema", json.dumps(PERSON), "--seed", seed, *WILD)
        assert (answer.code, answer.data["reasoning"]) == (0, "hm")
        jsonschema.validate(answer.data["parsed"], PERSON)


@pytest.mark.mlx_real
@pytest.mark.parametrize("opened_by", ["model", "prompt"])
def test_a_thought_cannot_end_the_answer(tmp_path, run, opened_by):
    """The script would end it before its closing marker."""
    path = thinking_model(tmp_path / "model", ["hm", EOS, "</think>"], opened_by)
    answer = run(path, "--choices", "yes,no", "--max-tokens", "4", "--seed", "1")
    assert answer.error["type"] == "structured_output_failed"
    detail = answer.error["detail"]
    assert (detail["response"], detail["finish_reason"]) == ("", "length")
    assert detail["reasoning"] and "thought" in answer.error["message"]


@pytest.mark.mlx_real
def test_a_thinking_model_may_answer_at_once(tmp_path, run):
    path = thinking_model(tmp_path / "model", ["ye", "s"], "nobody")
    answer = run(path, "--choices", "yes,no")
    assert (answer.data["reasoning"], answer.data["parsed"]) == (None, "yes")


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.mlx_real
def test_an_answer_that_is_cut_off_is_an_error_with_what_was_said(tmp_path, run):
    path = scripted_model(tmp_path / "model", pieces=['{"name":"', "Bob", '","age":', "23", ',"kind":', "null}"])
    answer = run(path, "--json-schema", "{}", "--max-tokens", "4")
    assert (answer.code, answer.error["type"]) == (1, "structured_output_failed")
    assert answer.error["detail"] == {
        "response": '{"name":"Bob","age":23',
        "reasoning": None,
        "finish_reason": "length",
    }
    assert "4 tokens" in answer.error["message"]


@pytest.mark.mlx_real
def test_a_stop_string_that_cuts_the_answer_is_an_error(tmp_path, run):
    path = scripted_model(tmp_path / "model", pieces=["ab", "cd"])
    answer = run(path, "--regex", "abcd", "--stop", "bc")
    assert (answer.code, answer.error["type"]) == (1, "structured_output_failed")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"type": "thing"}', "Invalid type: thing"),
        ('{"not": {"type": "string"}}', 'Unimplemented keys: ["not"]'),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"type": "string", "format": "colour"}', "Unknown format: colour"),
        ('{"type": "integer", "minimum": 3, "maximum": 2}', "Unsatisfiable"),
        ('{"$ref": "#/$defs/nowhere"}', "/$defs/nowhere"),
        ('{"$ref": "#"}', "no answer can ever fulfil it"),
        ('{"x-guidance": {"lenient": true}, "not": {}}', 'Unimplemented keys: ["not"]'),
        ('{"type": "string", "pattern": "(?=a)b"}', "look-ahead"),
        ('{"type": "object"', "line 1 column 18"),
        ('{"minimum": NaN}', "NaN is no JSON"),
        ('{"minimum": 1e999}', "too large"),
        ('{"const": "\\ud800"}', "UTF-8"),
        ('{"const": ' + "[" * 500 + "]" * 500 + "}", "recursion"),
        ('{"const": ' + "[" * 200_000 + "]" * 200_000 + "}", "deep"),
        ('{"type": "string", "description": "' + "x" * 2**20 + '"}', "1 MiB"),
        (json.dumps({"allOf": [{"anyOf": [{"minimum": i}, {"maxLength": i}]} for i in range(40)]}), "too large"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_bad_schema_is_refused_in_the_librarys_words_before_the_model_loads(model, tmp_path, run, schema, words):
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 64}), encoding="utf-8")
    answer = run(broken, "--json-schema", schema)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert "--json-schema" in answer.error["message"] and words in answer.error["message"]
    assert "\n" not in answer.error["message"] and len(answer.error["message"]) < 400


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--regex", "("), "unclosed group"),
        (("--regex", ""), "empty"),
        (("--regex", r"(a)\1"), "backreferences"),
        (("--regex", "\ud800"), "UTF-8"),
        (("--regex", r"a\b"), "lookarounds"),
        (("--choices", "a,,b"), "empty"),
        (("--choices", ""), "empty"),
        (("--choices", "a,\ud800"), "UTF-8"),
        (("--choices", "a", "--regex", "b"), "cannot be combined"),
    ],
)
def test_bad_patterns_and_choices_are_usage_errors_that_name_the_flag(model, run, flags, words):
    answer = run(model, *flags)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert flags[0] in answer.error["message"] and words in answer.error["message"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file"),
        (b"\xff{}", "no JSON Schema"),
        (b"{}]", "Extra data"),
        (b"[1]", "object"),
        (b"", "Expecting value"),
        (b" " * (2**20 + 1), "1 MiB"),
        ("folder", "directory"),
    ],
    ids=str,
)
def test_a_file_that_is_no_schema_is_named(model, run, tmp_path, data, words):
    file = tmp_path / "schema.json"
    if data == "folder":
        file.mkdir()
    elif data is not None:
        file.write_bytes(data)
    answer = run(model, "--json-schema", str(file))
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert "--json-schema" in answer.error["message"] and str(file) in answer.error["message"]
    assert words.lower() in answer.error["message"].lower()


def test_a_schema_file_may_begin_with_a_byte_order_mark_and_be_a_pipe(tmp_path):
    file = tmp_path / "schema.json"
    file.write_bytes(b'\xef\xbb\xbf{"type": "null"}')
    assert read_schema(str(file)) == '{"type": "null"}' == read_schema('{"type": "null"}')
    reading, writing = os.pipe()
    os.write(writing, b"true")
    os.close(writing)
    assert read_schema(f"/dev/fd/{reading}") == "true"
    os.close(reading)


def test_references_are_neither_fetched_nor_opened(model, run, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"type": "null"}', encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        for target in (address, secret.as_uri(), str(secret), "secret.json"):
            answer = run(model, "--json-schema", json.dumps({"$ref": target}))
            assert answer.error["type"] == "CommandError" and target in answer.error["message"]
        with pytest.raises(BlockingIOError):
            server.accept()


WITHOUT = "import sys; sys.modules['llguidance'] = None\nfrom mlxk2.cli import main\nsys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("flags", [("--json-schema", "{}"), ("--regex", "a"), ("--choices", "a,b")])
def test_a_missing_library_is_named_with_what_to_install(model, isolated_cache, flags):
    command = [sys.executable, "-c", WITHOUT, "run", str(model), "hi", *flags, "--json"]
    env = {**os.environ, **isolated_cache.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["type"]) == (1, "dependency_missing")
    assert "llguidance" in error["message"] and "mlxk2[structured]" in error["hint"]


# --- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "text", "words"),
    [
        ({"type": "object", "minProperties": 2}, '{"a":1,"a":2}', "schema"),
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": {}}, r'{"\u0061":"x"}', "schema"),
        ({"type": "number", "exclusiveMaximum": 1}, "0.99999999999999999999", "schema"),
        ({"type": "number", "exclusiveMinimum": 0}, "0." + "0" * 400 + "1", "schema"),
        ({"type": "integer"}, '"1"', "schema"),
        ({}, "[1,1e999]", "too large"),
        ({}, "NaN", "NaN"),
        ({}, '{"a":', "line 1"),
        ({}, "[" * 100_000, "deep"),
        ({"type": "integer"}, "1" * 5000, "limit"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_text_that_keeps_to_the_letter_but_not_to_the_value_is_none(schema, text, words):
    if words == "limit" and not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python reads numbers of any length")
    with pytest.raises(ValueError, match=words):
        Constraint.json_schema(json.dumps(schema)).value(text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"const": {"a": [1.5, 'é\u2028\n\\"', None]}}, '{"a":[1.5,"é\u2028\\n\\\\\\"",null]}'),
        ({"type": "object", "minProperties": 1}, '{"a":1,"a":2}'),
        ({"type": "number", "minimum": 0.1, "maximum": 0.3}, "0.25"),
        ({"type": "number"}, "1E5"),
        ({"type": "number"}, "0e99999999999999999999999"),
        ({"type": "array", "items": {"type": "integer"}}, "[1,-2,30]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_value_is_what_python_reads(schema, text):
    assert Constraint.json_schema(json.dumps(schema)).value(text) == json.loads(text)


def test_what_matches_no_pattern_and_no_choice_is_no_value():
    for constraint in (Constraint.regex("ab*"), Constraint.choices(("a", "abb"))):
        assert constraint.value("abb") == "abb"
        for text in ("", "b", "abc", "xa", "\ud800"):
            with pytest.raises(ValueError, match=r"match|surrogates"):
                constraint.value(text)


def test_true_allows_everything_and_false_nothing():
    assert Constraint.json_schema("true").value("[]") == []
    with pytest.raises(errors.UsageError, match="no answer"):
        Constraint.json_schema("false")


@pytest.mark.parametrize(
    ("argument", "choices"),
    [
        ("a,b,c", ("a", "b", "c")),
        ("a, b", ("a", " b")),
        ('["a,b", "c"]', ("a,b", "c")),
    ],
)
def test_choices_are_split_at_commas_or_listed_as_json(argument, choices):
    assert split_choices(argument) == choices


@pytest.mark.parametrize("argument", ["[a],[b]", "[1]", '["a"', "[" * 100_000])
def test_choices_that_begin_like_a_list_must_be_one(argument):
    with pytest.raises(errors.UsageError, match="--choices"):
        split_choices(argument)


# --- the engine -------------------------------------------------------------------------------------------------


class Fixed:
    """A mask that always says the same, or fails."""

    def __init__(self, bits):
        self.bits, self.taken, self.failure = bits, [], None

    def advance(self, ids):
        self.taken.append(list(ids))
        if isinstance(self.bits, Exception):
            raise self.bits
        return self.bits


@pytest.mark.mlx_real
@pytest.mark.parametrize(
    ("bits", "width", "known", "left"),
    [
        (b"\x05\x02", 16, 16, {0, 2, 9}),
        (b"\x05\x02", 12, 12, {0, 2, 9}),
        (b"\x05\x02", 9, 9, {0, 2}),
        (b"\x05\x02", 40, 16, {0, 2, 9}),
        (b"\xff\xff\xff", 20, 11, set(range(11))),
        (None, 3, 3, {0, 1, 2}),
        (RuntimeError("broken"), 20, 20, {1, 17}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_logits_of_what_is_not_allowed_are_minus_infinity(bits, width, known, left, dtype):
    import mlx.core as mx

    from mlxk2.runner.mlx_backend.token_mask import mask_processor

    mask = Fixed(bits)
    process = mask_processor(mask, known, frozenset([1, 17] if known > 17 else [1]))
    logits = mx.arange(width).reshape(1, width).astype(getattr(mx, dtype))
    for tokens in ([7, 8], [7, 8, 9], [7, 8, 9, 1]):
        masked = process(mx.array(tokens), logits)
        assert masked.dtype == logits.dtype and masked.shape == logits.shape
        assert {place for place, value in enumerate(masked[0].tolist()) if value != -float("inf")} == left
        assert all(masked[0, place].item() == logits[0, place].item() for place in left)
    assert mask.taken == [[], [9], [1]]
    assert (mask.failure == "broken") is isinstance(bits, Exception)


@pytest.mark.mlx_real
@pytest.mark.skipif(sys.version_info < (3, 10), reason="mlx-lm for Python 3.9 takes no processors by row")
def test_rows_of_a_batch_each_keep_to_their_own(model):
    import mlx.core as mx

    from mlxk2.runner.mlx_backend import file_limit_kept
    from mlxk2.runner.mlx_backend.token_mask import mask_processor

    with file_limit_kept():
        library = importlib.import_module("mlx_lm.generate")
        loaded = importlib.import_module("mlx_lm.utils").load_model(model)[0]
        sampler = importlib.import_module("mlx_lm.sample_utils").make_sampler(temp=1.0)
    mx.random.seed(5)
    stops = frozenset([1, 2])
    grammar = Grammar.load(model / "tokenizer.json", 266, stops)
    wanted = [Constraint.json_schema(json.dumps(schema)) for schema in SCHEMAS]
    wanted += [Constraint.regex("[a-f]{5,9}"), Constraint.choices(("yes", "no")), None]
    masks = [None if constraint is None else grammar.mask(constraint) for constraint in wanted]
    batch = library.BatchGenerator(loaded, stop_tokens=[[stop] for stop in stops], sampler=sampler)
    processors = [[] if mask is None else [mask_processor(mask, 266, stops)] for mask in masks]
    rows = batch.insert(
        [[10 + n] * (n + 2) for n in range(len(wanted))], [200] * len(wanted), logits_processors=processors
    )
    said, reasons = {row: [] for row in rows}, {}
    while len(reasons) < len(rows):
        for answer in batch.next()[1]:
            said[answer.uid].append(answer.token)
            if answer.finish_reason:
                reasons[answer.uid] = answer.finish_reason
    batch.close()
    for row, constraint, mask in zip(rows, wanted, masks):
        if constraint is not None:
            text = grammar.text_of(token for token in said[row] if token not in stops).decode()
            assert mask.complete and reasons[row] == "stop"
            constraint.value(text)


@pytest.mark.mlx_real
@pytest.mark.smollm2
def test_the_real_model_fills_in_a_form(isolated_cache):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "country": {"enum": ["France", "Spain"]}},
        "required": ["city", "country"],
        "additionalProperties": False,
    }
    flags = ("--json-schema", json.dumps(schema), "--temperature", "0", "--json")
    question = "What is the capital of France? Answer with city and country."
    answer = call("run", str(smollm2()), question, *flags, env=isolated_cache.env)
    assert answer.code == 0, answer.error
    jsonschema.validate(answer.data["parsed"], schema)
    assert "Paris" in answer.data["parsed"]["city"] or answer.data["parsed"]["country"] == "France"


# --- schemas that would take the compiler down ------------------------------------------------------------------------


def chained(links):
    steps = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(links)}
    return {"$defs": {**steps, f"d{links}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def patterned(count, refers=False):
    schemas = [{"type": "string", "pattern": f"a{i}.*b"} for i in range(count)]
    if not refers:
        return {"allOf": schemas}
    defined = {f"d{i}": schema for i, schema in enumerate(schemas)}
    return {"x": defined, "allOf": [{"$ref": f"#/x/d{i}"} for i in range(count)]}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (chained(1500), r"more than 1000 entries of \$ref"),
        (chained(20_000 // 3), "more than 10000 objects"),
        ({"properties": {f"p{i}": {} for i in range(2001)}}, "more than 2000 entries of properties"),
        ({"patternProperties": {f"^x{i}_": {} for i in range(300)}}, "more than 64 entries of patternProperties"),
        (patterned(39), "more than 12 patterns must hold at once"),
        (patterned(39, refers=True), "more than 12 patterns must hold at once"),
        ({"$ref": "#a", **patterned(13)}, "need references that begin with #/"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_schema_that_is_too_much_is_refused_before_it_is_compiled(schema, words):
    with pytest.raises(errors.UsageError, match=words):
        Constraint.json_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        chained(900),
        {"anyOf": [{"properties": {"id": {"type": "string", "pattern": f"^a{i}$"}}} for i in range(50)]},
        {"allOf": [{"properties": {f"{n}{i}": {"type": "string", "pattern": "^a$"} for i in range(20)}} for n in "pq"]},
        {"type": "object", "properties": {"pattern": {}, "$ref": {}, "allOf": {}, "properties": {}, "items": {}}},
    ],
    ids=lambda v: str(v)[:30],
)
def test_large_schemas_and_those_with_odd_names_are_compiled(schema):
    pytest.importorskip("llguidance")
    Constraint.json_schema(json.dumps(schema)).check()


def test_the_deepest_schema_that_is_let_through_does_not_overflow_the_stack():
    """In a process of its own, which would be gone."""
    pytest.importorskip("llguidance")
    step = {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {}}}}
    schema = {"$defs": {f"d{i}": json.loads(json.dumps(step)) for i in range(999)}, "$ref": "#/$defs/d0"}
    for i in range(998):
        schema["$defs"][f"d{i}"]["items"]["items"]["items"] = {"$ref": f"#/$defs/d{i + 1}"}
    code = "import sys; from mlxk2.runner.constraint import Constraint as C; C.json_schema(sys.stdin.read()).check()"
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(schema), text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_schema_is_compiled_once():
    pytest.importorskip("llguidance")
    options = [{"type": "object", "properties": {f"a{i}": {}}, "required": [f"a{i}"]} for i in range(1500)]
    constraint = Constraint.json_schema(json.dumps({"anyOf": options}))
    start = time.process_time()
    constraint.check()
    compiled = time.process_time() - start
    for number in range(5):
        constraint.check()
        assert constraint.value(f'{{"a5":{number}}}') == {"a5": number}
    assert time.process_time() - start < 2 * compiled


def test_the_form_of_a_schema_is_checked_without_the_compiler():
    code = (
        "import sys; from mlxk2.server.reading.form import constraint_of as c;"
        "c('json_schema', {'type': 'object'}, 'response_format'); print('llguidance' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
