"""Reasoning apart from the answer: every format by example, and laws that hold for any text in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.cost import cpu_seconds

from mlxk2.runner.markers import MarkerFinder
from mlxk2.runner.reasoning import FORMATS, is_reasoning_vocabulary, reasoning_format
from mlxk2.runner.segments import StopCutter

BY_NAME = {known.name: known for known in FORMATS}
THINK, HARMONY, GEMMA, COHERE = BY_NAME["think"], BY_NAME["harmony"], BY_NAME["gemma"], BY_NAME["cohere"]
TAGS = tuple(known for known in FORMATS if known is not HARMONY)
PLAIN_TAGS = tuple(known for known in TAGS if not known.answer_opener)

ASKED = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
HARMONY_ASKED = "<|start|>user<|message|>How many?<|end|><|start|>assistant"
SPACE = " \t\n\r\f\v"


def split(known, text, prompt=ASKED, sizes=()):
    """Return (reasoning, answer) of `text`, fed in pieces of `sizes` and then the rest."""
    splitter, said, rest = known.splitter(prompt), {"reasoning": [], "answer": []}, text
    pieces = []
    for size in [*sizes, len(text)]:
        pieces += splitter.feed(rest[:size])
        rest = rest[size:]
    for channel, piece in (*pieces, *splitter.finish()):
        assert piece, "an empty text was said"
        said[channel].append(piece)
    return "".join(said["reasoning"]), "".join(said["answer"])


def one_by_one(known, text, prompt=ASKED):
    return split(known, text, prompt, [1] * len(text))


def names(formats):
    return [known.name for known in formats]


# --- tags -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", TAGS, ids=names(TAGS))
class TestEveryPairOfTags:
    def test_the_model_opens_its_reasoning_itself(self, known):
        text = f"\n{known.openers[0]}\nSix,\n\nor seven. \n{known.answer_marker}\n\nSeven.\n"
        assert split(known, text) == ("Six,\n\nor seven.", "Seven.\n")

    def test_the_prompt_leaves_reasoning_open(self, known):
        prompt = f"{ASKED}{known.openers[0]}\n"
        assert known.is_open(prompt)
        assert split(known, f"Six.\n{known.answer_marker}\n\nSeven.", prompt) == ("Six.", "Seven.")

    def test_a_model_may_open_again_what_the_prompt_has_opened(self, known):
        text = f"\n{known.openers[0]}\nSix.{known.answer_marker}Seven."
        assert split(known, text, f"{ASKED}{known.openers[0]}\n") == ("Six.", "Seven.")

    def test_the_template_has_closed_the_reasoning(self, known):
        prompt = f"{ASKED}{known.openers[0]}\n\n{known.answer_marker}\n\n"
        assert not known.is_open(prompt)
        assert split(known, "Seven.", prompt) == split(known, "\n\nSeven.", prompt) == ("", "Seven.")
        assert split(known, f"{known.answer_marker}\n\nSeven.", prompt) == ("", "Seven.")

    def test_reasoning_that_is_never_closed_stays_reasoning(self, known):
        assert split(known, f"{known.openers[0]}\nSix, or\n") == ("Six, or", "")
        assert split(known, f"{known.openers[0]}a{known.answer_marker[:-1]}") == (f"a{known.answer_marker[:-1]}", "")

    def test_without_reasoning_everything_is_answer(self, known):
        assert not known.is_open(ASKED)
        assert split(known, "\n Seven. \n") == ("", "\n Seven. \n")
        assert split(known, "\n\n") == ("", "\n\n")
        assert split(known, "") == ("", "")

    def test_an_opener_later_in_the_answer_is_text(self, known):
        text = f"Write {known.openers[0]}so{known.answer_marker}."
        assert split(known, text) == ("", text)
        assert split(known, f"{known.openers[0]}a{known.answer_marker}{text}") == ("a", text)

    def test_an_opener_within_reasoning_is_text(self, known):
        text = f"{known.openers[0]}I write {known.openers[0]} first.{known.answer_marker}Done."
        assert split(known, text) == (f"I write {known.openers[0]} first.", "Done.")

    def test_empty_reasoning_is_none(self, known):
        assert split(known, f"{known.openers[0]}\n\n{known.answer_marker}\n\nSeven.") == ("", "Seven.")

    def test_whitespace_after_reasoning_is_no_answer(self, known):
        assert split(known, f"{known.openers[0]}Six.{known.answer_marker}\n\n") == ("Six.", "")

    def test_a_second_reasoning_before_the_answer_joins_the_first(self, known):
        block = f"{known.openers[0]}%s{known.answer_marker}\n"
        assert split(known, block % "One." + block % "Two." + "Three.") == ("One.\n\nTwo.", "Three.")

    def test_a_marker_in_the_user_s_words_opens_nothing(self, known):
        prompt = f"<|im_start|>user\nWhat is {known.openers[0]}?<|im_end|>\n<|im_start|>assistant\n"
        assert not known.is_open(prompt)
        assert split(known, "A tag.", prompt) == ("", "A tag.")

    def test_character_by_character_is_the_same(self, known):
        text = f" \n{known.openers[0]} 👩‍👩‍👧 東京\n\n{known.answer_marker[:-1]} {known.answer_marker}\n \n🦊 {known.openers[0][:-1]}"
        assert one_by_one(known, text) == split(known, text)


def wrapped(known):
    return f"{known.answer_opener}\nSeven.\n" + "".join(known.answer_closers)


WRAPPING = tuple(known for known in TAGS if known.answer_opener)


@pytest.mark.parametrize("known", WRAPPING, ids=names(WRAPPING))
class TestTagsAroundTheAnswer:
    def test_they_are_not_shown(self, known):
        text = f"{known.openers[0]}\nSix.\n{known.answer_marker}\n{wrapped(known)}\n"
        assert split(known, text) == one_by_one(known, text) == ("Six.", "Seven.")

    def test_nor_without_reasoning(self, known):
        assert split(known, wrapped(known)) == ("", "Seven.")

    def test_nor_where_the_prompt_opens_the_answer(self, known):
        prompt = ASKED + known.answer_opener
        assert not known.is_open(prompt)
        assert split(known, wrapped(known)[len(known.answer_opener) :], prompt) == ("", "Seven.")

    def test_a_closer_that_text_follows_is_text(self, known):
        text = f"{known.answer_opener}a {known.answer_closers[0]} b"
        assert split(known, text) == one_by_one(known, text) == ("", f"a {known.answer_closers[0]} b")

    def test_an_answer_that_is_cut_short_keeps_its_end(self, known):
        assert split(known, f"{known.answer_opener}\nSeven,\n") == ("", "Seven,\n")

    def test_a_closer_that_nothing_opened_is_text(self, known):
        assert split(known, f"a{known.answer_closers[0]}") == ("", f"a{known.answer_closers[0]}")


def test_whitespace_is_only_what_models_put_between():
    assert split(THINK, "<think>\u3000a\u3000</think>\n\u3000東京") == ("\u3000a\u3000", "\u3000東京")


def test_a_no_break_space_begins_the_answer():
    assert split(THINK, "\u00a0<think>a</think>") == ("", "\u00a0<think>a</think>")


# --- harmony ----------------------------------------------------------------------------------------------------

NEXT = "<|end|><|start|>assistant"
ANALYSIS, COMMENTARY, FINAL = (f"<|channel|>{name}<|message|>" for name in ("analysis", "commentary", "final"))

HARMONY_CASES = {
    "analysis and final": (f"{ANALYSIS}Six.\n{NEXT}{FINAL}Seven.<|return|>", "Six.", "Seven."),
    "final alone": (f"{FINAL}Seven.", "", "Seven."),
    "whitespace": (f"\n{ANALYSIS}\n a\n\nb \n{NEXT}{FINAL}\n\n Seven.\n", "a\n\nb", "Seven.\n"),
    "empty analysis": (f"{ANALYSIS}{NEXT}{FINAL}Seven.", "", "Seven."),
    "never closed": (f"{ANALYSIS}Six, or\n", "Six, or", ""),
    "several": (f"{ANALYSIS}a{NEXT}{COMMENTARY}b{NEXT}{ANALYSIS}c{NEXT}{FINAL}d", "a\n\nb\n\nc", "d"),
    "call": ('<|channel|>commentary to=functions.sum <|constrain|>json<|message|>{"a": 1}<|call|>', '{"a": 1}', ""),
    "recipient first": (" to=functions.sum<|channel|>commentary json<|message|>{}<|call|>", "{}", ""),
    "recipient in the role": (f"{ANALYSIS}a{NEXT} to=sum<|channel|>commentary<|message|>{{}}<|call|>", "a\n\n{}", ""),
    "constrained final": (f"{ANALYSIS}a{NEXT}<|channel|>final <|constrain|>json<|message|>{{}}", "a", "{}"),
    "final, then more": (f"{FINAL}a{NEXT}{ANALYSIS}b{NEXT}{FINAL}c", "b", "a\n\nc"),
    "no format": (" Seven.\n", "", " Seven.\n"),
    "no format, but like a recipient": ("to=day", "", "to=day"),
    "no format, but like the beginning of one": (" t", "", " t"),
    "no format: <think> is text": ("<think>a</think>b", "", "<think>a</think>b"),
    "nothing": ("", "", ""),
    "whitespace alone": (" \n", "", " \n"),
    "whitespace between messages": (f"\n{ANALYSIS}a<|end|>\n<|start|>assistant{FINAL}b", "a", "b"),
    "whitespace after a message": (f"{ANALYSIS}a<|end|>\n", "a", ""),
    "text after a message": (f"{ANALYSIS}a<|end|>\n Seven.\n", "a", "Seven.\n"),
    "header cut short": ("<|channel|>analy", "", ""),
    "recipient cut short": ("<|channel|>commentary to=functions.su", "", ""),
    "role cut short": (f"{ANALYSIS}a<|end|><|start|>assis", "a", ""),
    "answer explains the format": (f"{FINAL}Write {ANALYSIS}a<|end|> so.", "", f"Write {ANALYSIS}a<|end|> so."),
    "unformatted answer explains it": (f"Write {ANALYSIS}a.", "", f"Write {ANALYSIS}a."),
    "a start within the answer": (f"{FINAL}a <|start|> b", "", "a <|start|> b"),
    "analysis without its end": (f"{ANALYSIS}a{FINAL}b", "a", "b"),
    "final without <|message|>": ('<|channel|>final {"a": 1}<|return|>', "", '{"a": 1}'),
    "analysis without <|message|>": (f"<|channel|>analysis six{NEXT}{FINAL}b", "six", "b"),
    "constraint without <|message|>": ('<|channel|>final <|constrain|>json {"a": 1}', "", '{"a": 1}'),
    "role without <|message|>": (f"{ANALYSIS}a{NEXT} Seven.", "a", "Seven."),
    "long header": ("<|channel|>" + "word " * 200, "", "word " * 200),
    "long header and <|message|>": ("<|channel|>" + "word " * 200 + "<|message|>a", "", "word " * 200 + "<|message|>a"),
    "final answer without a header": (f'{ANALYSIS}a<|end|>{{"a": 1}}', "a", '{"a": 1}'),
    "misspelt channel": ("<|channel|>finalx<|message|>Seven.", "", "Seven."),
    "no channel, but a recipient": (" to=x<|message|>Seven.", "", "Seven."),
    "two channels": (f"<|channel|>analysis{FINAL}Seven.", "", "Seven."),
    "two channels and a constraint": (f"<|channel|>final <|constrain|>json{ANALYSIS}Six.", "Six.", ""),
    "stray <|message|>": (f"{ANALYSIS}a<|message|>b", "ab", ""),
    "no channel": ("<|message|>Seven.", "", "Seven."),
    "empty channel": ("<|channel|><|message|>Seven.", "", "Seven."),
    "garbled header": (f"<|channel|>commentary?<|channel|>commentary?<|message|>a{NEXT}{FINAL}b", "a", "b"),
    "free text for a header": (f"<|channel|>??{NEXT}{ANALYSIS}a{NEXT}{FINAL}b", "a", "??\n\nb"),
    "marker within reasoning": (f"{ANALYSIS}the <|channel|> mark{NEXT}{FINAL}b", "the\n\nmark", "b"),
    "start twice": (f"<|start|><|start|>assistant{ANALYSIS}a", "a", ""),
    "stray constraint": (f"<|constrain|>{ANALYSIS}a<|constrain|>b", "ab", ""),
}


@pytest.mark.parametrize(("text", "reasoning", "answer"), HARMONY_CASES.values(), ids=HARMONY_CASES)
def test_harmony(text, reasoning, answer):
    assert split(HARMONY, text, HARMONY_ASKED) == (reasoning, answer)
    assert one_by_one(HARMONY, text, HARMONY_ASKED) == (reasoning, answer)


@pytest.mark.parametrize(
    ("end", "is_open", "spoken"),
    [
        ("", True, ("", "Six.")),
        (ANALYSIS, True, ("Six.", "")),
        (" to=x<|channel|>commentary <|constrain|>json<|message|>\n", True, ("Six.", "")),
        (FINAL, False, ("", "Six.")),
        ("<|message|>", False, ("", "Six.")),
        (f"{ANALYSIS}a{NEXT}<|message|>", False, ("", "Six.")),
    ],
)
def test_a_harmony_prompt_says_where_the_model_goes_on(end, is_open, spoken):
    assert HARMONY.is_open(HARMONY_ASKED + end) is is_open
    assert split(HARMONY, "Six.", HARMONY_ASKED + end) == spoken


def test_a_raw_prompt_opens_no_harmony_message():
    assert not HARMONY.is_open("Once upon a time")
    assert split(HARMONY, " there was", "Once upon a time") == ("", " there was")


def test_the_answer_marker_of_harmony_begins_the_answer():
    assert split(HARMONY, f"{HARMONY.openers[0]}a{NEXT}{HARMONY.answer_marker}b", HARMONY_ASKED) == ("a", "b")


# --- when something is shown ------------------------------------------------------------------------------------


def test_text_is_shown_as_soon_as_it_is_certain():
    splitter = THINK.splitter(ASKED)
    fed = [splitter.feed(text) for text in ("<thi", "nk>", "\nSix", "\n", "or", " </th", "ink>", "\n\n", "Seven", "!")]
    assert fed == [
        (),
        (),
        (("reasoning", "Six"),),
        (),
        (("reasoning", "\nor"),),
        (),
        (),
        (),
        (("answer", "Seven"),),
        (("answer", "!"),),
    ]
    assert splitter.finish() == ()


@pytest.mark.parametrize("text", ["to=x is y", "to=" + "x" * 300, "<|channel|>" + "word " * 100])
def test_what_is_no_header_is_not_held_back_to_the_end(text):
    assert HARMONY.splitter(HARMONY_ASKED).feed(text)


def test_both_channels_may_be_in_one_piece_in_order():
    assert THINK.splitter(ASKED).feed("<think>a</think>b") == (("reasoning", "a"), ("answer", "b"))


# --- recognition ------------------------------------------------------------------------------------------------

TOKENS = {
    "harmony": {"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>", "<|return|>", "<|call|>"},
    "gemma": {"<|channel>", "<channel|>", "<|turn>", "<turn|>", "<|think|>"},
    "kimi_sections": {"<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"},
    "cohere": {"<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"},
    "longcat_think": {"<longcat_think>", "</longcat_think>"},
    "think_start": {"<|think:start|>", "<|think:end|>"},
    "seed_think": {"<seed:think>", "</seed:think>"},
    "mm_think": {"<mm:think>", "</mm:think>"},
    "mistral_think": {"[THINK]", "[/THINK]"},
    "inner": {"<|inner_prefix|>", "<|inner_suffix|>"},
    "kimi_think": {"◁think▷", "◁/think▷"},
    "think_answer": {"<think>", "</think>", "<answer>", "</answer>"},
    "think_response": {"<think>", "</think>", "<response>", "</response>"},
    "think": {"<think>", "</think>"},
}


def test_names_are_different_and_all_are_known_here():
    assert set(BY_NAME) == set(TOKENS) and len(BY_NAME) == len(FORMATS)


@pytest.mark.parametrize("name", TOKENS)
def test_a_format_is_known_by_its_tokens(name):
    assert reasoning_format(None, TOKENS[name].__contains__) is BY_NAME[name]
    assert reasoning_format("{{ messages }}", TOKENS[name].__contains__) is BY_NAME[name]
    assert is_reasoning_vocabulary(TOKENS[name].__contains__)


@pytest.mark.parametrize("name", TOKENS)
def test_one_token_of_several_says_nothing(name):
    marks = sorted(TOKENS[name] & {"<|channel|>", "<|channel>", "<|open|>"} or TOKENS[name])
    assert reasoning_format(None, {marks[0]}.__contains__) is None


def nothing(token):
    return False


@pytest.mark.parametrize("known", FORMATS, ids=names(FORMATS))
def test_a_format_is_known_by_its_template(known):
    written = "{{ '" + known.openers[0] + "' + thought + '" + known.answer_marker + "' }}"
    if known is not HARMONY and known.answer_opener:
        written += known.answer_opener + "".join(known.answer_closers)
    assert reasoning_format(written, nothing) is known


def test_a_template_may_only_open_reasoning_or_only_cut_it_out():
    assert reasoning_format("<|im_start|>assistant\n<think>\n", nothing) is THINK
    assert reasoning_format("{{ content.split('</think>')[-1] }}", nothing) is THINK


def test_the_template_counts_before_the_vocabulary():
    tokens = TOKENS["think"] | TOKENS["harmony"]
    assert reasoning_format("[THINK]{{ thought }}[/THINK]", tokens.__contains__) is BY_NAME["mistral_think"]
    assert reasoning_format("{{ '<think>' }}", tokens.__contains__) is THINK


def test_most_models_do_not_reason():
    assert reasoning_format("<|im_start|>{{ role }}", {"<|im_start|>"}.__contains__) is None
    assert reasoning_format(None, nothing) is None
    assert not is_reasoning_vocabulary({"<think>", "<|im_start|>"}.__contains__)


# --- laws -------------------------------------------------------------------------------------------------------

SNIPPETS = [
    "a",
    "b.",
    " ",
    "\n",
    "\n\n",
    "<",
    "</",
    "<|",
    "[",
    "🦊",
    "👩‍👩‍👧",
    "東京",
    "e\u0301",
    "to=x",
    "t",
    "final",
    "analysis",
]
SIZES = st.lists(st.integers(1, 9), max_size=60)


def texts(known):
    """Texts of this format, of others, and of parts of markers."""
    markers = [known.openers[0], known.answer_marker]
    if known is HARMONY:
        markers += [ANALYSIS, FINAL, NEXT, *sorted(TOKENS["harmony"])]
    else:
        markers += list(known.markers)
    parts = markers + [marker[: len(marker) // 2] for marker in markers] + [marker[1:] for marker in markers]
    return st.lists(st.sampled_from([*SNIPPETS, *markers, *parts]), max_size=14).map("".join)


def prompts(known):
    ends = ["", known.openers[0], known.openers[0] + "\n" + known.answer_marker + "\n\n", " ".join(known.openers) + "?"]
    return st.sampled_from(ends).map((HARMONY_ASKED if known is HARMONY else ASKED).__add__)


CASES = st.sampled_from(FORMATS).flatmap(lambda known: st.tuples(st.just(known), prompts(known), texts(known)))


@given(CASES, SIZES)
@example((HARMONY, HARMONY_ASKED, "<|channel|>" + "to=" + "x" * 400 + "<|message|>a"), [1] * 500)
@example((HARMONY, HARMONY_ASKED, "<|channel|>" + "x" * 255 + "<|constrain|>json<|message|>a"), [1] * 300)
def test_any_pieces_say_the_same(case, sizes):
    known, prompt, text = case
    assert split(known, text, prompt, sizes) == split(known, text, prompt)


def by_hand(known, text, is_open, has_reasoned):
    """The rules for one pair of tags, on the whole text at once."""
    opener, closer, blocks, rest = known.openers[0], known.answer_marker, [], text
    while True:
        ahead = rest.lstrip(SPACE)
        if is_open:
            block, closed, rest = rest.partition(closer)
            while block.lstrip(SPACE).startswith(opener):
                block = block.lstrip(SPACE)[len(opener) :]
            blocks.append(block.strip(SPACE))
            is_open, has_reasoned = False, True
            if not closed:
                answer = ""
                break
        elif ahead.startswith(opener):
            is_open, rest = True, ahead[len(opener) :]
        elif ahead.startswith(closer):
            has_reasoned, rest = True, ahead[len(closer) :]
        else:
            answer = ahead if has_reasoned else rest
            break
    return "\n\n".join(filter(None, blocks)), answer


@given(
    st.sampled_from(PLAIN_TAGS).flatmap(lambda known: st.tuples(st.just(known), prompts(known), texts(known))), SIZES
)
def test_tags_split_as_one_would_by_hand(case, sizes):
    known, prompt, text = case
    closed = prompt.rstrip(SPACE).endswith(known.answer_marker)
    assert split(known, text, prompt, sizes) == by_hand(known, text, known.is_open(prompt), closed)


BODY = st.lists(st.sampled_from(SNIPPETS), max_size=6).map("".join)
MESSAGES = st.lists(
    st.tuples(st.sampled_from(["analysis", "commentary", "commentary to=functions.x"]), BODY), max_size=4
)


@given(MESSAGES, BODY, SIZES)
def test_messages_in_harmony_come_back_on_their_channels(messages, final, sizes):
    headed = [f"<|channel|>{channel}<|message|>{body}" for channel, body in [*messages, ("final", final)]]
    reasoning = "\n\n".join(filter(None, (body.strip(SPACE) for _, body in messages)))
    assert split(HARMONY, NEXT.join(headed) + "<|return|>", HARMONY_ASKED, sizes) == (reasoning, final.strip(SPACE))


@given(texts(HARMONY), SIZES)
def test_no_marker_of_harmony_is_in_the_reasoning(text, sizes):
    reasoning, _ = split(HARMONY, text, HARMONY_ASKED, sizes)
    assert not any(marker in reasoning for marker in TOKENS["harmony"])


@given(CASES)
def test_nothing_is_said_that_was_not_generated(case):
    known, prompt, text = case
    reasoning, answer = split(known, text, prompt)
    for said in (reasoning, answer):
        rest = iter(text)
        assert all(char in rest for char in said if char not in SPACE)


# --- markers ----------------------------------------------------------------------------------------------------


def cut_by_hand(text, markers):
    """Cut at the marker whose end comes first, the longest of those that end there."""
    pieces, begin, end = [], 0, 0
    while end < len(text):
        end += 1
        found = max((m for m in markers if text[begin:end].endswith(m)), key=len, default=None)
        if found:
            pieces += [(text[begin : end - len(found)], False), (found, True)]
            begin = end
    return [piece for piece in [*pieces, (text[begin:], False)] if piece[0]]


def joined(pieces):
    """The pieces, neighbouring texts put together and empty ones left out."""
    out = []
    for text, is_marker in pieces:
        if out and not is_marker and not out[-1][1]:
            out[-1] = (out[-1][0] + text, False)
        elif text:
            out.append((text, is_marker))
    return out


@given(
    st.text(alphabet="ab]^", max_size=40),
    st.lists(st.text(alphabet="ab]^", min_size=1, max_size=6), max_size=5),
    st.lists(st.integers(1, 5), max_size=40),
)
@example("aab", ["aab", "ab"], [])
@example("abcde", ["abcd", "bc", "e"], [3])
@example("abab", ["aba", "bab"], [1, 1, 1])
def test_markers_are_found_in_any_pieces(text, markers, sizes):
    finder, rest, pieces = MarkerFinder(markers), text, []
    for size in [*sizes, len(text)]:
        pieces += finder.feed(rest[:size])
        rest = rest[size:]
        begun = "".join(piece for piece, _ in pieces)
        held = text[len(begun) : len(text) - len(rest)]
        assert not held or any(marker.startswith(held) for marker in markers), "more is held back than needs be"
    assert joined([*pieces, (finder.finish(), False)]) == cut_by_hand(text, markers)


def long_whitespace(size):
    splitter = THINK.splitter(ASKED)
    for char in ["<think>", "a", *"\n" * size, "b", "</think>", *" " * size, "c"]:
        splitter.feed(char)


def long_answer_at_once(size):
    HARMONY.splitter(HARMONY_ASKED).feed(f"{ANALYSIS}a <| b{NEXT}" * (size // 10))


def long_stop_string_almost(size):
    cutter = StopCutter(("a" * size + "b",))
    for _ in range(size):
        cutter.feed("a")
    cutter.feed("a" * size)


@pytest.mark.parametrize("work", [long_whitespace, long_answer_at_once, long_stop_string_almost])
def test_time_is_linear(work):
    """Eight times the text takes some eight times as long; quadratic work would take sixty-four times."""
    assert cpu_seconds(work, 80_000) < 30 * cpu_seconds(work, 10_000)
