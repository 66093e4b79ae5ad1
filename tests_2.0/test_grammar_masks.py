"""Masks of allowed tokens: whatever is said under one fulfils its constraint; where thinking and stopping are allowed."""

from __future__ import annotations

import json
import os
import random

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.mask_talk import allowed_ids, speak
from support.tiny_model import EOS, SPECIALS, TinyOptions, scripted_model, tiny_model

from mlxk2 import errors
from mlxk2.runner.constraint import Constraint
from mlxk2.runner.grammar import Grammar, Thinking

BOS_ID, EOS_ID, TURN_END_ID, TURN_START_ID = range(len(SPECIALS))
STOPS = frozenset([EOS_ID, TURN_END_ID])

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "maxItems": 3},
        "kind": {"enum": ["alpha", "beta", None, 7]},
        "place": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def grammar(folder):
    return Grammar.load(folder / "tokenizer.json", 300, STOPS)


@pytest.fixture(scope="module")
def spm_grammar(tmp_path_factory):
    path = tiny_model(tmp_path_factory.mktemp("spm") / "model", TinyOptions(spm=True))
    return Grammar.load(path / "tokenizer.json", 400, frozenset([2]))


def schema(value):
    return Constraint.json_schema(json.dumps(value))


def allowed(mask, ids=()):
    return set(allowed_ids(mask.advance(ids)))


def ids_of(grammar, text):
    return grammar.tokenized(text.encode())


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        PERSON,
        {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "maxItems": 4},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
        {"enum": ["a\u0001b", "\x7f", 1.5, None, {"k": "é\n"}]},
        {"type": ["string", "boolean"], "minLength": 2, "maxLength": 6},
        True,
    ],
    ids=lambda value: json.dumps(value)[:30],
)
@pytest.mark.parametrize("kind", ["grammar", "spm_grammar"])
def test_every_answer_that_ends_is_a_value_of_its_schema(kind, wanted, request):
    grammar, constraint, ended = request.getfixturevalue(kind), schema(wanted), 0
    for seed in range(40):
        spoken = speak(grammar, grammar.mask(constraint), seed)
        assert spoken.mask.failure is None
        if not spoken.ended:
            continue
        assert spoken.mask.complete
        try:
            value = constraint.value(spoken.text)
        except ValueError as error:
            assert "too large" in str(error)
        else:
            jsonschema.Draft202012Validator(wanted).validate(value)
            ended += 1
    assert ended >= 10


NAMES = st.sampled_from(["a", "b", "ab", "x1", "é", " "])
PATTERNS = st.sampled_from(["^a+$", "b", "^[a-z]{2,3}$", r"^\d\d$", "x|^y", "^.$", r"\w", "^(ab|c)*$"])
INTEGERS = st.integers(-20, 20)


def some(kind, **keywords):
    """Schemas of a type with some of the keywords."""
    return st.fixed_dictionaries({"type": st.just(kind)}, optional=keywords)


LEAVES = st.one_of(
    some("integer", minimum=INTEGERS, maximum=INTEGERS, multipleOf=st.integers(1, 5)),
    some("number", minimum=INTEGERS, exclusiveMaximum=st.floats(-20, 20).map(lambda number: round(number, 3))),
    some("string", minLength=st.integers(0, 3), maxLength=st.integers(0, 5), pattern=PATTERNS),
    st.sampled_from([{"type": "null"}, {"type": ["boolean", "array"]}, {"type": "string", "format": "date"}, {}, True]),
    st.lists(st.one_of(st.text(max_size=3), INTEGERS, st.none()), min_size=1, max_size=3).map(lambda v: {"enum": v}),
)


def grown(part):
    few = st.lists(part, min_size=1, max_size=2)
    by_name = st.dictionaries(NAMES, part, max_size=3)
    return st.one_of(
        some(
            "object", properties=by_name, required=st.lists(NAMES, max_size=2, unique=True), additionalProperties=part
        ),
        some("object", patternProperties=st.dictionaries(PATTERNS, part, max_size=1), minProperties=st.integers(0, 2)),
        some("array", items=part, prefixItems=few, minItems=st.integers(0, 2), maxItems=st.integers(0, 3)),
        st.sampled_from(["anyOf", "allOf", "oneOf"]).flatmap(lambda word: few.map(lambda parts: {word: parts})),
    )


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(wanted=st.recursive(LEAVES, grown, max_leaves=5), seed=st.integers(0, 2**32))
def test_any_schema_is_refused_or_kept(grammar, wanted, seed):
    constraint = schema(wanted)
    try:
        constraint.check()
    except errors.UsageError:
        return
    spoken = speak(grammar, grammar.mask(constraint), seed, limit=150)
    if not spoken.ended:
        return
    try:
        value = constraint.value(spoken.text)
    except ValueError as error:
        assert spoken.mask.failure or "too large" in str(error) or "does not fit" in str(error)
    else:
        assert spoken.mask.complete
        jsonschema.Draft202012Validator(wanted).validate(value)


@pytest.mark.parametrize(
    "pattern", [r"^[0-9]{3}-[a-f]+$", "a|bc", "(?i)yes", "[^x]{2}", "é+🦊?", r"[\s\S]{1,3}", "/a/"]
)
def test_a_regular_expression_holds_for_the_whole_answer(grammar, pattern):
    import re

    constraint = Constraint.regex(pattern)
    for seed in range(20):
        spoken = speak(grammar, grammar.mask(constraint), seed)
        assert spoken.ended and spoken.mask.complete
        assert re.fullmatch(pattern, spoken.text) and constraint.value(spoken.text) == spoken.text


STRANGE = (
    'a"b',
    "c\\d",
    "e\nf",
    "<eos>",
    EOS,
    "\x00",
    "🦊",
    "é",
    " sp ",
    "\x7f",
    "%{{x}}",
    "//c",
    "'q'",
    "\u2028",
    "a,b",
)


def test_choices_are_said_exactly_whatever_their_characters(grammar):
    constraint = Constraint.choices(STRANGE)
    said = {speak(grammar, grammar.mask(constraint), seed).text for seed in range(300)}
    assert said == set(STRANGE)


def test_a_choice_that_begins_another_may_end_or_go_on(grammar):
    mask = grammar.mask(Constraint.choices(("no", "not")))
    assert not allowed(mask) & STOPS
    mask.advance(ids_of(grammar, "no"))
    assert mask.complete
    assert allowed(mask) == STOPS | set(ids_of(grammar, "t"))


def test_thousands_of_choices_are_no_problem(grammar):
    choices = tuple(f"choice number {number}" for number in range(5000))
    assert speak(grammar, grammar.mask(Constraint.choices(choices)), 1).text in choices


# --- stopping, padding, and what cannot go on -------------------------------------------------------------------


def test_every_stop_token_may_end_a_whole_answer_and_none_an_unfinished_one(grammar):
    mask = grammar.mask(schema({"type": "integer"}))
    assert not allowed(mask) & STOPS
    assert allowed(mask, ids_of(grammar, "-")).isdisjoint(STOPS) and not mask.complete
    assert allowed(mask, ids_of(grammar, "7")) > STOPS and mask.complete


def test_a_stop_token_that_is_ordinary_text_does_not_cut_an_answer_short(folder):
    quote = 5
    grammar = Grammar.load(folder / "tokenizer.json", 300, frozenset([quote]))
    assert grammar.text_of([quote]) == b'"'
    mask = grammar.mask(Constraint.regex('a*|b"?c'))
    assert allowed(mask) == {quote, *ids_of(grammar, "a"), *ids_of(grammar, "b")}
    assert allowed(mask, ids_of(grammar, "b")) == set(ids_of(grammar, "c"))


def test_after_the_stop_token_only_stop_tokens_follow(grammar):
    mask = grammar.mask(schema({"type": "integer"}))
    mask.advance(ids_of(grammar, "7"))
    assert allowed(mask, [EOS_ID]) == STOPS == allowed(mask, [TURN_END_ID])
    assert mask.complete and mask.failure is None


def test_a_token_that_was_not_allowed_is_a_failure_and_ends_the_answer(grammar):
    mask = grammar.mask(schema({"type": "integer"}))
    assert allowed(mask, ids_of(grammar, "x")) == STOPS
    assert mask.failure and not mask.complete


def test_ids_that_only_pad_the_vocabulary_are_never_allowed(grammar):
    mask = grammar.mask(Constraint.regex(r"[\s\S]*"), Thinking(True, (), (TURN_START_ID,)))
    tokens = 4 + 256 + 6
    thinking = allowed(mask)
    assert max(thinking) == tokens - 1 and len(thinking) == tokens - len(STOPS)
    assert max(allowed(mask, [TURN_START_ID])) == tokens - 1


def test_a_model_that_knows_fewer_tokens_than_its_tokenizer(folder):
    grammar = Grammar.load(folder / "tokenizer.json", 100, frozenset([EOS_ID]))
    assert speak(grammar, grammar.mask(schema(PERSON)), 3).mask.failure is None


def test_an_answer_that_the_vocabulary_cannot_spell_is_a_failure(tmp_path, grammar):
    path = scripted_model(tmp_path / "model", pieces=["7"])
    document = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    kept = {token: number for token, number in document["model"]["vocab"].items() if token != "z"}
    document["model"]["vocab"] = kept
    (path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    poor = Grammar.load(path / "tokenizer.json", 300, STOPS)
    mask = poor.mask(Constraint.regex("az"))
    assert allowed(mask, ids_of(grammar, "a")) == STOPS
    assert "vocabulary" in mask.failure and not mask.complete


def test_a_schema_that_never_ends_is_never_complete(grammar):
    part = {"type": "integer"}
    endless = schema({"type": "object", "properties": {"n": part, "a": {"$ref": "#"}}, "required": ["n", "a"]})
    spoken = speak(grammar, grammar.mask(endless), 1, limit=60)
    assert not spoken.ended and not spoken.mask.complete
    with pytest.raises(ValueError, match="line 1"):
        endless.value(spoken.text)


def test_a_model_without_stop_tokens_is_refused(folder):
    with pytest.raises(errors.IncompatibleModel, match="ends an answer"):
        Grammar.load(folder / "tokenizer.json", 300, frozenset())


@pytest.mark.parametrize("text", [None, "", "{}", '{"version": "1.0", "model": {"type": "New"}}'])
def test_a_tokenizer_that_cannot_be_used_is_refused_in_the_librarys_words(tmp_path, text):
    file = tmp_path / "tokenizer.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(errors.IncompatibleModel, match=r"tokenizer\.json"):
        Grammar.load(file, 300, STOPS)


def test_a_tokenizer_that_was_written_anew_is_read_anew(tmp_path):
    file = tiny_model(tmp_path / "model") / "tokenizer.json"
    before = Grammar.load(file, 300, STOPS)
    file.write_text(file.read_text(encoding="utf-8").replace('"q"', '"\u0100"'), encoding="utf-8")
    os.utime(file, ns=(1, 1))
    mask = Grammar.load(file, 300, STOPS).mask(Constraint.regex("q|r"))
    assert len(allowed(mask)) < len(allowed(before.mask(Constraint.regex("q|r"))))


# --- thinking ---------------------------------------------------------------------------------------------------

THINK, SINGLE = "<think>", Thinking(True, ((BOS_ID,),), (TURN_START_ID,))
YES = Constraint.choices(("yes", "no"))


def spelled(grammar, *, is_open):
    """Markers that are no tokens of their own: several ordinary ones each."""
    return Thinking(is_open, (tuple(ids_of(grammar, THINK)),), tuple(ids_of(grammar, "</think>")))


@pytest.mark.parametrize("seed", range(20))
def test_open_reasoning_is_free_cannot_end_the_answer_and_comes_before_it(grammar, seed):
    mask = grammar.mask(YES, SINGLE)
    assert allowed(mask).isdisjoint(STOPS) and len(allowed(mask)) > 200
    draw = random.Random(seed)
    thought = [token for token in (draw.choice(sorted(allowed(mask))) for _ in range(30)) if token != TURN_START_ID]
    spoken = speak(grammar, mask, seed, first=[*thought, TURN_START_ID])
    assert spoken.ended and spoken.mask.complete
    assert grammar.text_of(spoken.ids[len(thought) + 1 :]).decode().lstrip("\n") in ("yes", "no")


def test_reasoning_that_is_still_open_is_no_answer(grammar):
    mask = grammar.mask(Constraint.regex(".*"), SINGLE)
    mask.advance(ids_of(grammar, "well"))
    assert not mask.complete and mask.failure is None
    mask.advance([EOS_ID])
    assert not mask.complete


def test_a_model_that_opens_reasoning_itself_may_do_so_or_answer_at_once(grammar):
    mask = grammar.mask(YES, Thinking(False, ((BOS_ID,),), (TURN_START_ID,)))
    first = allowed(mask)
    assert first == {BOS_ID, *allowed(grammar.mask(YES))}
    assert len(allowed(mask, [BOS_ID])) > 200
    mask.advance([TURN_START_ID, *ids_of(grammar, "yes")])
    assert mask.complete


def test_a_model_that_answers_at_once_cannot_open_reasoning_afterwards(grammar):
    mask = grammar.mask(YES, Thinking(False, ((BOS_ID,),), (TURN_START_ID,)))
    assert BOS_ID not in allowed(mask, ids_of(grammar, "y"))
    assert allowed(mask, ids_of(grammar, "es")) == STOPS and mask.complete


def test_a_marker_of_several_tokens_must_be_said_whole(grammar):
    thinking = spelled(grammar, is_open=False)
    mask = grammar.mask(YES, thinking)
    for place, token in enumerate(thinking.openers[0]):
        assert token in allowed(mask) and not mask.complete
        mask.advance([token])
        if 0 <= place < len(thinking.openers[0]) - 1:
            assert allowed(mask) == {thinking.openers[0][place + 1]}
    assert len(allowed(mask)) > 200


def test_a_closing_marker_counts_however_it_is_cut_into_tokens(grammar):
    closer = "</think>"
    for cut in range(1, len(closer)):
        mask = grammar.mask(YES, spelled(grammar, is_open=True))
        ids = [*ids_of(grammar, "so <" + closer[:cut]), *ids_of(grammar, closer[cut:])]
        mask.advance([*ids, *ids_of(grammar, "yes")])
        assert mask.complete, cut


def test_a_closing_marker_that_is_said_but_for_its_end_is_ended(grammar):
    mask = grammar.mask(YES, spelled(grammar, is_open=True))
    assert len(allowed(mask, ids_of(grammar, "hm </thin"))) > 200
    assert allowed(mask, ids_of(grammar, "k")) == set(ids_of(grammar, ">"))


def test_what_one_token_says_behind_the_marker_belongs_to_the_answer(tmp_path):
    pieces = ["</think>ye", "</think>\n", "</think>xx"]
    path = scripted_model(tmp_path / "model", pieces=pieces)
    grammar = Grammar.load(path / "tokenizer.json", 300, STOPS)
    first, second, third = range(266, 269)
    for token, rest, whole in ((first, "s", True), (second, "yes", True), (third, "", False)):
        mask = grammar.mask(YES, Thinking(True, (), closer_ids(grammar)))
        mask.advance([token, *ids_of(grammar, rest)])
        assert mask.complete is whole and (mask.failure is None) is whole


def closer_ids(grammar):
    return tuple(token for letter in "</think>" for token in ids_of(grammar, letter))


def test_one_line_break_may_stand_between_reasoning_and_answer(grammar):
    mask = grammar.mask(YES, SINGLE)
    line_break = ids_of(grammar, "\n")
    assert allowed(mask, [TURN_START_ID]) == {*line_break, *allowed(grammar.mask(YES))}
    assert allowed(mask, line_break) == allowed(grammar.mask(YES))
    mask.advance(ids_of(grammar, "yes"))
    assert mask.complete


def test_a_line_break_that_the_answer_itself_begins_with_is_part_of_it(grammar):
    mask = grammar.mask(Constraint.regex("\na"), SINGLE)
    mask.advance([TURN_START_ID, *ids_of(grammar, "\na")])
    assert mask.complete


def test_a_marker_that_an_answer_may_begin_with_is_answer(grammar):
    thinking = spelled(grammar, is_open=False)
    mask = grammar.mask(Constraint.regex("<[a-z]+>"), thinking)
    mask.advance(thinking.openers[0])
    assert mask.complete
