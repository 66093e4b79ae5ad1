"""One answer in the making: what comes of each step, and the whole at the end. Knows no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mlxk2.errors import MlxkError
from mlxk2.events import Delta, Usage

from .answer import Answer, AnswerText, ChosenToken, PreparedPrompt, Stopwatch, TokenChoice
from .request import Decoding

if TYPE_CHECKING:
    from .mlx_backend import Step


class RowFailed(NamedTuple):
    """One of several answers that are made together cannot go on; its row has left."""

    row: int
    error: MlxkError


class Turn:
    """The state of one answer: its text, its mask, how many tokens it took, when.

    `cached_tokens` is how many ids of the prompt had been read before; `chosen` are the tokens with their log
    probabilities, where those were asked for.
    """

    def __init__(self, prompt: PreparedPrompt, draft_tokens: int = 3) -> None:
        self.prompt = prompt
        self.text = AnswerText(prompt)
        self.cached_tokens = 0
        self._mask = prompt.make_mask()
        self._draft_tokens = draft_tokens
        self._clock = Stopwatch()
        self._said: list[int] = []
        self.chosen: list[ChosenToken] = []

    def begin(self) -> None:
        """Let the time run from now on."""
        self._clock = Stopwatch()

    def take(self, step: Step) -> tuple[Delta, ...]:
        """Return what can be shown now that the engine has made a step."""
        self.note(step)
        return self.say(step)

    def note(self, step: Step) -> None:
        """Count a step, the text of which nobody needs yet; `say` must follow for each, in their order."""
        self._clock.count()
        self._said.append(step.token)

    def say(self, step: Step) -> tuple[Delta, ...]:
        """Return what can be shown of a step that was noted."""
        deltas = self.text.feed(step.token)
        if step.logprobs is not None and step.token not in self.prompt.stop_ids:
            self.chosen.append(self._chosen_token(step))
        return deltas

    @property
    def tokens(self) -> int:
        """How many steps there were."""
        return self._clock.tokens

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt and what was said so far. An engine that reads them goes on where another one stopped."""
        return (*self.prompt.ids, *self._said)

    @property
    def is_over(self) -> bool:
        """Whether a stop token or a stop string has ended the answer."""
        return self.text.reason == "stop"

    def end(self) -> None:
        """The answer is complete, whatever else the model would say."""
        self.text.reason = "stop"

    def interrupt(self) -> None:
        """The user wants no more; an answer that is complete keeps its reason."""
        if not self.is_over:
            self.text.reason = "interrupted"

    def decoding(self) -> Decoding:
        """Return what the engine needs to know to continue `ids`."""
        prompt, said = self.prompt, tuple(self._said)
        if said:
            self._mask = prompt.make_mask()
            if self._mask is not None:
                self._mask.advance(said)
        return Decoding(
            sampling=prompt.request.sampling,
            max_tokens=prompt.max_tokens - len(said),
            vocab_size=prompt.vocab_size,
            stop_ids=prompt.stop_ids,
            mask=self._mask,
            top_logprobs=prompt.request.top_logprobs,
            draft_tokens=self._draft_tokens,
            said=said,
        )

    def result(self) -> Answer:
        """Return the whole, after `text.finish()`."""
        prompt_tokens, tokens = len(self.prompt.ids), self._clock.tokens
        return Answer(
            text=self.text.answer,
            reasoning=self.text.reasoning,
            finish_reason=self.text.reason,
            usage=Usage(prompt_tokens, tokens, prompt_tokens + tokens, self.cached_tokens),
            timing=self._clock.timing(),
            tokens_per_second=self._clock.tokens_per_second(),
            logprobs=None if self.prompt.request.top_logprobs is None else tuple(self.chosen),
            complete=self._mask is None or self._mask.complete,
            failure=None if self._mask is None else self._mask.failure,
            stop=self.text.stop,
        )

    def _chosen_token(self, step: Step) -> ChosenToken:
        text_of = self.prompt.tokenizer.text_of
        logprobs = step.logprobs
        assert logprobs is not None
        top = tuple(TokenChoice(text_of(token), token, value) for token, value in logprobs.top)
        return ChosenToken(text_of(step.token), step.token, logprobs.logprob, top)
