"""What a JSON Schema costs: milliseconds a token with and without it, at the vocabulary of a real model (49,152 tokens).

The model is a tiny random one with that vocabulary, so that the cost is not lost in the model's own arithmetic. Its
answers are wild; a sensible one is replayed token by token as well, without any model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from harness import real_model
from table import print_table, verdict

VOCABULARY, STOPS = 49152, frozenset([2])
ANSWERS, MOST_TOKENS, REPEATS, REPLAYS = 8, 60, 12, 40
TARGET_MS = 0.7
PROMPT = [1, 9690, 198, 2683, 359, 253, 5356, 1132]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
        "kind": {"enum": ["alpha", "beta", "gamma"]},
        "address": {
            "anyOf": [
                {"type": "null"},
                {"type": "object", "properties": {"street": {"type": "string", "pattern": "^[A-Z][a-z ]+$"}}},
            ]
        },
    },
    "required": ["name", "age", "tags", "kind", "address"],
    "additionalProperties": False,
}
SENSIBLE = {
    "name": "Ada Lovelace of London",
    "age": 36,
    "tags": ["mathematics", "computing", "poetry"],
    "kind": "beta",
    "address": {"street": "Saint james square"},
}


def main() -> None:
    """Measure and print one table."""
    from mlxk2.runner.constraint import Constraint
    from mlxk2.runner.grammar import Grammar

    file = real_model() / "tokenizer.json"
    set_up_ms, grammar = timed(lambda: Grammar.load(file, VOCABULARY, STOPS))
    constraint = Constraint.json_schema(json.dumps(SCHEMA))
    compile_ms, _ = timed(lambda: grammar.mask(constraint))
    free, held = generation_ms(grammar, constraint)
    replayed = replay_ms(grammar, constraint, file)
    added = min(held) - min(free)
    rows = [
        ("tiny model, free", f"{min(free):.3f}", f"{median(free):.3f}"),
        ("tiny model, with the schema", f"{min(held):.3f}", f"{median(held):.3f}"),
        ("added by the schema", f"{added:.3f}", f"<= {TARGET_MS:g}: {verdict(added <= TARGET_MS)}"),
        ("sensible answer replayed", f"{min(replayed):.3f}", f"{median(replayed):.3f}"),
        ("once a model: its vocabulary", f"{set_up_ms:.0f}", ""),
        ("once a schema: compiled", f"{compile_ms:.1f}", ""),
    ]
    title = f"run --json-schema: cost a token, {VOCABULARY} tokens, {ANSWERS} answers, in turns"
    print_table(title, ("what", "best ms", "median"), rows)


def generation_ms(grammar: Any, constraint: Any) -> tuple[list[float], list[float]]:
    """Return milliseconds a token of free answers, and of answers with a schema: as many, and as long, in turns."""
    from mlxk2.runner.mlx_backend.token_mask import mask_processor

    model, generate, sampler = tiny_model_of_that_vocabulary()

    def answer(seed: int, tokens: int, processors: list[Any] | None) -> Iterator[int]:
        import mlx.core as mx

        mx.random.seed(seed)
        steps = generate(
            mx.array(PROMPT), model, max_tokens=tokens, sampler=sampler, logits_processors=processors, prompt_cache=None
        )
        for token, _ in steps:
            yield token
            if processors and token in STOPS:
                return

    def held(seed: int) -> Iterator[int]:
        mask = grammar.mask(constraint)
        return answer(seed, MOST_TOKENS, [mask_processor(mask, VOCABULARY, STOPS)])

    lengths = [sum(1 for _ in held(seed)) for seed in range(ANSWERS)]
    loops: dict[str, Callable[[int], Iterator[int]]] = {
        "free": lambda seed: answer(seed, lengths[seed], None),
        "held": held,
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(REPEATS):
        # Who goes first changes, so that neither always finds the machine warm.
        for name in sorted(loops, reverse=bool(turn % 2)):
            milliseconds, tokens = timed(partial(count_tokens, loops[name]))
            times[name].append(milliseconds / tokens)
    return times["free"], times["held"]


def count_tokens(loop: Callable[[int], Iterator[int]]) -> int:
    """Say every answer and return how many tokens they had together."""
    return sum(1 for seed in range(ANSWERS) for _ in loop(seed))


def tiny_model_of_that_vocabulary() -> tuple[Any, Any, Any]:
    """Return a random llama that has next to nothing to compute, mlx-lm's loop, and a sampler."""
    import importlib

    import mlx.core as mx

    llama = importlib.import_module("mlx_lm.models.llama")
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=1,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
    )
    mx.random.seed(0)
    model = llama.Model(args)
    mx.eval(model.parameters())
    generate = importlib.import_module("mlx_lm.generate").generate_step
    return model, generate, importlib.import_module("mlx_lm.sample_utils").make_sampler(temp=1.0)


def replay_ms(grammar: Any, constraint: Any, file: Path) -> list[float]:
    """Return milliseconds a token that masks of a sensible answer take, applied to logits that are there already."""
    import mlx.core as mx
    from tokenizers import Tokenizer

    from mlxk2.runner.mlx_backend.token_mask import mask_processor

    text = json.dumps(SENSIBLE, separators=(",", ":"))
    ids = [*PROMPT, *Tokenizer.from_file(str(file)).encode(text).ids]
    contexts = [mx.array(ids[:end]) for end in range(len(PROMPT), len(ids) + 1)]
    logits = mx.random.normal((1, VOCABULARY))
    mx.eval(logits, contexts)

    def replay() -> Any:
        mask = grammar.mask(constraint)
        process = mask_processor(mask, VOCABULARY, STOPS)
        for context in contexts:
            mx.eval(process(context, logits))
        return mask

    times = []
    for _ in range(REPLAYS):
        milliseconds, mask = timed(replay)
        assert mask.complete, mask.failure
        times.append(milliseconds / len(contexts))
    return times


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds that `work` took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1000, result


if __name__ == "__main__":
    main()
