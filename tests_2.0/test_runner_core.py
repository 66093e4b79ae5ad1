"""MLXRunner end to end on models whose answer is known: text, stop rules, sampling, prompts, and bad models."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import pytest
from conftest_runner import chat, drain, files_of, raw
from hypothesis import example, given
from hypothesis import strategies as st
from support.tiny_model import BOS, EOS, TURN_END, TinyOptions, distinct_pieces, scripted_model, tiny_model

from mlxk2 import errors
from mlxk2.events import Finished, Started
from mlxk2.runner import chat_template
from mlxk2.runner.model_text import ModelText
from mlxk2.runner.prompt import make_prompt, template_renderer
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.segments import StopCutter
from mlxk2.runner.stop import stop_token_ids, turn_enders
from mlxk2.runner.tokenizer import FileTokenizer

TEXT = "The capital of France is Paris. 🦊 Voilà — naïve 東京!"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


# --- the answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_exactly_what_the_model_says(scripted, tell, family):
    told = tell(scripted(TEXT, TinyOptions(model_type=family)))
    assert told.answer.text == "".join(told.deltas) == TEXT
    assert told.finished.reason == told.answer.finish_reason == "stop"


def test_events_begin_with_started_and_end_with_finished(scripted, tell):
    told = tell(scripted(TEXT), label="org/name")
    assert told.events[0] == Started("org/name")
    assert [type(event) for event in told.events].count(Finished) == 1
    assert len(told.deltas) > 3 and all(told.deltas)


def test_usage_counts_prompt_and_every_token_with_the_one_that_ends(scripted, tell):
    path = scripted("", pieces=["one ", "two ", "three"])
    told = tell(path, raw("abc"))
    assert (told.answer.usage.prompt_tokens, told.answer.usage.completion_tokens) == (3, 4)
    assert told.answer.usage.total_tokens == 7


def test_times_are_in_order(scripted, tell):
    answer = tell(scripted(TEXT)).answer
    assert 0 < answer.timing.time_to_first_token_s <= answer.timing.generation_time_s
    assert answer.tokens_per_second > 0


def test_characters_split_over_tokens_come_whole(scripted, tell):
    fox = "🦊".encode()
    told = tell(scripted(pieces=["a ", fox[:1], fox[1:3], fox[3:], " b"]))
    assert told.deltas == ["a ", "🦊", " b"]


def test_an_unfinished_character_at_the_end_is_shown_as_broken(scripted, tell):
    told = tell(scripted(pieces=["so: ", "🦊".encode()[:2]]))
    assert told.answer.text == "so: \ufffd"


def test_a_raw_prompt_keeps_the_space_between_prompt_and_answer(scripted, tell):
    path = scripted(pieces=[" Paris", " it", " is"], options=TinyOptions(spm=True))
    assert tell(path, raw("France is")).answer.text == " Paris it is"


def test_two_requests_of_one_runner_do_not_touch_each_other(scripted, runner_of):
    runner = runner_of(scripted(TEXT))
    first, second = drain(runner.generate(chat())), drain(runner.generate(chat("another")))
    assert first.answer.text == second.answer.text == TEXT


def test_a_closed_runner_can_be_asked_again(scripted, runner_of):
    runner = runner_of(scripted(TEXT))
    drain(runner.generate(chat()))
    runner.close()
    assert drain(runner.generate(chat())).answer.text == TEXT


# --- stop strings -----------------------------------------------------------------------------------------------


def test_a_stop_string_across_token_borders_is_cut_and_ends_the_answer(scripted, tell):
    path = scripted(pieces=["The cap", "ital of", " Fr", "ance is", " Paris"])
    told = tell(path, chat(stop=("apital of Fra",)))
    assert (told.answer.text, told.finished.reason) == ("The c", "stop")
    assert told.answer.usage.completion_tokens == 4


def test_what_only_looks_like_a_stop_string_is_shown(scripted, tell):
    path = scripted(pieces=["ab", "cab", "cx"])
    told = tell(path, chat(stop=("abcabcabc",)))
    assert (told.answer.text, told.finished.reason) == ("abcabcx", "stop")


def test_a_stop_string_inside_the_held_back_end_is_found(scripted, tell):
    fox = "🦊".encode()
    told = tell(scripted(pieces=["x", fox[:2]]), chat(stop=("\ufffd",)))
    assert (told.answer.text, told.finished.reason) == ("x", "stop")


def cut_by_hand(text, stops):
    """The first end of any stop string counts, the longer one of two."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


SMALL = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4).map(tuple)


@given(SMALL, STOPS, st.lists(st.integers(1, 5), max_size=40))
@example("aab", ("aab", "ab"), [1, 1, 1])
@example("abcd", ("abcd", "bc"), [2, 2])
def test_any_chunking_cuts_the_same_and_loses_nothing(text, stops, sizes):
    cutter, shown, rest = StopCutter(stops), "", text
    for size in [*sizes, len(text)]:
        shown += cutter.feed(rest[:size])
        rest = rest[size:]
        assert not any(stop in shown for stop in stops)
    stopped = cutter.stopped
    shown += cutter.finish()
    assert (shown, stopped) == cut_by_hand(text, stops)


# --- stop tokens ------------------------------------------------------------------------------------------------


def loaded(path):
    text = ModelText.of(files_of(path))
    return text, json.loads((path / "config.json").read_text()), FileTokenizer.load(path / "tokenizer.json")


def test_stop_ids_are_the_union_of_all_places(tmp_path):
    options = TinyOptions(
        eos_in_config=[7, 9999], eos_in_generation_config=8, config={"text_config": {"eos_token_id": 11}}
    )
    text, config, tokenizer = loaded(tiny_model(tmp_path / "m", options))
    eos, turn_end = tokenizer.id_of(EOS), tokenizer.id_of(TURN_END)
    assert stop_token_ids(text, config, tokenizer, 300, chat=False) == {7, 8, 11, eos}
    assert stop_token_ids(text, config, tokenizer, 300, chat=True) == {7, 8, 11, eos, turn_end}


@pytest.mark.parametrize("wrong", [True, "7", None, -1, 10**30, 7.5, {"a": 1}, [[7]]])
def test_useless_eos_entries_are_no_stop_ids(tmp_path, wrong):
    options = TinyOptions(eos_in_tokenizer=None, eos_in_generation_config=wrong)
    text, config, tokenizer = loaded(tiny_model(tmp_path / "m", options))
    assert stop_token_ids(text, config, tokenizer, 300, chat=False) == frozenset()


@pytest.mark.parametrize("place", ["eos_in_config", "eos_in_generation_config"])
def test_an_eos_that_only_one_file_names_ends_the_answer(tmp_path, tell, place):
    number = 1  # EOS
    options = TinyOptions(eos_in_tokenizer=None, **{place: [number]})
    told = tell(scripted_model(tmp_path / "m", TEXT, options))
    assert (told.answer.text, told.finished.reason) == (TEXT, "stop")


def test_the_turn_marker_of_the_template_ends_a_chat_and_is_not_shown(scripted, tell):
    path = scripted(pieces=["Hello", TURN_END, "more"])
    assert tell(path, chat()).answer.text == "Hello"
    assert tell(path, raw()).answer.text == f"Hello{TURN_END}more"


def test_a_template_with_channels_does_not_end_at_its_part_marker():
    assert turn_enders("<|end|> <|return|> <|call|>") == ("<|return|>", "<|call|>")
    assert turn_enders("<|end|>") == ("<|end|>",)


# --- sampling ---------------------------------------------------------------------------------------------------

SAMPLED = {"temperature": 1.5, "top_p": 1.0}


def test_the_same_seed_gives_the_same_text_and_others_differ(tiny, runner_of):
    runner = runner_of(tiny())

    def text(seed):
        return drain(runner.generate(chat(sampling=Sampling(**SAMPLED, seed=seed), max_tokens=20))).answer.text

    assert text(1) == text(1)
    assert len({text(seed) for seed in (1, 2, 3, 4)}) > 1
    assert len({text(None) for _ in range(4)}) > 1


def test_top_p_zero_is_greedy(tiny, runner_of):
    runner = runner_of(tiny())
    texts = {
        drain(runner.generate(chat(sampling=sampling, max_tokens=20))).answer.text
        for sampling in (Sampling(temperature=0), Sampling(temperature=1.5, top_p=0), Sampling(temperature=1e-9))
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    "options", [{"top_k": 10**6}, {"top_k": 5}, {"min_p": 1.0}, {"min_p": 0.1}, {"repetition_penalty": 100}]
)
def test_extreme_but_legal_sampling_works_and_leaves_the_engine_sound(tiny, runner_of, options):
    runner = runner_of(tiny())
    for sampling in (Sampling(**SAMPLED, **options), Sampling(**SAMPLED)):
        told = drain(runner.generate(chat(sampling=sampling, max_tokens=5)))
        assert 1 <= told.answer.usage.completion_tokens <= 5


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"temperature": -0.1}, "--temperature"),
        ({"temperature": math.nan}, "--temperature"),
        ({"temperature": math.inf}, "--temperature"),
        ({"top_p": 1.1}, "--top-p"),
        ({"top_p": math.nan}, "--top-p"),
        ({"min_p": 2}, "--min-p"),
        ({"top_k": -1}, "--top-k"),
        ({"repetition_penalty": 0}, "--repetition-penalty"),
        ({"repetition_penalty": -math.inf}, "--repetition-penalty"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**64}, "--seed"),
    ],
)
def test_sampling_out_of_range_is_refused_by_the_name_of_its_flag(options, flag):
    with pytest.raises(errors.UsageError, match=flag):
        Sampling(**options)


def test_the_largest_seed_works(tiny, tell):
    assert tell(tiny(), chat(sampling=Sampling(seed=2**64 - 1), max_tokens=2)).finished.reason in ("stop", "length")


@pytest.mark.parametrize("options", [{}, {"messages": (), "prompt": ""}, {"prompt": "a", "stop": ("",)}])
def test_requests_that_mean_nothing_are_refused(options):
    with pytest.raises(errors.UsageError):
        GenerationRequest(**options)


def test_requests_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Sampling().seed = 5


# --- prompts ----------------------------------------------------------------------------------------------------

TALK = (Message("system", "Be kind."), Message("user", "hi"))


def ids_of(path, request):
    text, _, tokenizer = loaded(path)
    return make_prompt(request, text, tokenizer, template_renderer(text, tokenizer)).ids, tokenizer


def test_messages_go_through_the_template_without_a_second_bos(tmp_path):
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    path = tiny_model(tmp_path / "m", TinyOptions(chat_template=template, add_bos=True))
    ids, tokenizer = ids_of(path, GenerationRequest(messages=TALK))
    assert ids == (tokenizer.id_of(BOS), *tokenizer.encode("[system]Be kind.[user]hi", add_special_tokens=False))


def test_without_a_template_messages_are_joined_by_a_blank_line(tmp_path):
    path = tiny_model(tmp_path / "m", TinyOptions(chat_template=None))
    ids, tokenizer = ids_of(path, GenerationRequest(messages=TALK))
    assert ids == tokenizer.encode("Be kind.\n\nhi", add_special_tokens=True)


@pytest.mark.parametrize(
    ("add_bos", "setting", "text", "expected"),
    [
        (True, None, "hi", 1),
        (False, None, "hi", 0),
        (True, False, "hi", 0),
        (False, True, "hi", 1),
        (True, None, BOS, 1),
    ],
)
def test_raw_text_gets_exactly_the_bos_that_the_tokenizer_wants(tmp_path, add_bos, setting, text, expected):
    extra = {} if setting is None else {"add_bos_token": setting}
    path = tiny_model(tmp_path / "m", TinyOptions(add_bos=add_bos, tokenizer_config=extra))
    ids, tokenizer = ids_of(path, raw(text))
    assert ids.count(tokenizer.id_of(BOS)) == expected


def test_the_template_is_found_in_each_of_its_places(tmp_path):
    path = tiny_model(tmp_path / "m", TinyOptions(chat_template="config"))
    assert ModelText.of(files_of(path)).chat_template == "config"
    (path / "chat_template.jinja").write_text("file")
    assert ModelText.of(files_of(path)).chat_template == "file"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    other = tiny_model(tmp_path / "n", TinyOptions(chat_template=None, tokenizer_config={"chat_template": named}))
    assert ModelText.of(files_of(other)).chat_template == "d"
    third = tiny_model(tmp_path / "o", TinyOptions(chat_template=None))
    (third / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert ModelText.of(files_of(third)).chat_template == "json"


def test_several_templates_without_a_default_are_refused_only_where_one_is_needed(scripted, tell):
    named = [{"name": "rag", "template": "r"}, {"name": "tool's", "template": "t"}]
    path = scripted(TEXT, TinyOptions(chat_template=None, tokenizer_config={"chat_template": named}))
    assert tell(path, raw()).answer.text == TEXT
    with pytest.raises(errors.GenerationFailed, match="several .rag, tool's.") as caught:
        tell(path, chat())
    assert "--no-chat-template" in caught.value.hint


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% for %}", "Expected"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ range(10**9) | list }}", "OverflowError|too big"),
        ("{{ messages[0]['role'] + 1 }}", "TypeError"),
    ],
)
def test_a_template_that_fails_is_a_typed_error_with_its_words(template, words):
    with pytest.raises(errors.GenerationFailed, match=words) as caught:
        chat_template.render(template, TALK, {})
    assert caught.value.hint


def test_a_template_without_system_role_hints_at_the_flag():
    with pytest.raises(errors.GenerationFailed) as caught:
        chat_template.render("{{ raise_exception('System role not supported') }}", TALK, {})
    assert "--system" in caught.value.hint


def test_the_template_language_is_that_of_the_models():
    template = (
        "{%- for m in messages %}\n"
        "  {%- if loop.index0 == 1 %}{% break %}{% endif %}\n"
        "  {% generation %}{{ m.content | tojson }}{% endgeneration %}\n"
        "{%- endfor %}{{ strftime_now('%Y') | length }}"
    )
    assert chat_template.render(template, (Message("user", "<é>"), Message("user", "x")), {}) == '"<é>"4'


# --- decoding ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["bytes", "spm"])
def tokenizer(request, tmp_path_factory):
    path = tiny_model(tmp_path_factory.mktemp("tokenizer"), TinyOptions(spm=request.param))
    return FileTokenizer.load(path / "tokenizer.json")


@given(text=st.text(max_size=40))
@example(text="▁a ▁")
@example(text="👩‍👩‍👧 🇩🇪  é\t\n\x00 <|im_end|> \ufffd")
def test_text_survives_encoding_and_streaming(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoder = tokenizer.decoder()
    # The sentencepiece kind writes spaces with this sign and cannot tell them apart.
    assert "".join([*map(decoder.feed, ids), decoder.finish()]) in (text, text.replace("▁", " "))


@given(data=st.data())
def test_no_sequence_of_tokens_breaks_the_decoder(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.size + 2), max_size=30))
    decoder = tokenizer.decoder()
    text = "".join([*map(decoder.feed, ids), decoder.finish()])
    assert len(text) <= 20 * len(ids)


def test_scripts_are_cut_into_different_pieces():
    for text in ("", "a", "aaaaaaaaaaaaaaaaa", TEXT * 3):
        pieces = distinct_pieces(text)
        assert "".join(pieces) == text and len(set(pieces)) == len(pieces)


# --- bad models -------------------------------------------------------------------------------------------------


def test_code_of_the_model_is_refused_before_anything_is_loaded(scripted, tell, tmp_path):
    path = scripted(TEXT, TinyOptions(config={"model_file": "evil.py"}))
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(errors.IncompatibleModel, match="model_file"):
        tell(path)
    assert not (tmp_path / "ran").exists()


def test_an_architecture_that_nobody_knows_is_incompatible(scripted, tell):
    with pytest.raises(errors.IncompatibleModel, match="not supported"):
        tell(scripted(TEXT, TinyOptions(config={"model_type": "abacus"})))


def test_a_module_that_is_no_architecture_is_incompatible(scripted, tell):
    with pytest.raises(errors.IncompatibleModel):
        tell(scripted(TEXT, TinyOptions(config={"model_type": "cache"})))


def test_a_broken_tokenizer_is_incompatible(scripted, tell):
    path = scripted(TEXT)
    (path / "tokenizer.json").write_text('{"model": {"type": "Abacus"}}')
    with pytest.raises(errors.IncompatibleModel, match=r"tokenizer\.json"):
        tell(path)


def test_a_tokenizer_larger_than_the_model_never_reaches_the_engine(scripted, tell):
    path = scripted(TEXT)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    with pytest.raises(errors.IncompatibleModel, match="only 10 tokens"):
        tell(path)


@pytest.mark.mlx_real
def test_weights_of_another_shape_are_incompatible(scripted, tell):
    path = scripted(TEXT)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(errors.IncompatibleModel, match="cannot load"):
        tell(path)


def test_an_empty_raw_prompt_is_refused(scripted, tell):
    with pytest.raises(errors.UsageError, match="empty"):
        tell(scripted(TEXT), raw(""))
