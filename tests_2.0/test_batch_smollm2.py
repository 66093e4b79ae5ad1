"""A batch on the real SmolLM2-135M-Instruct says what single runs say."""

from __future__ import annotations

import pytest
from support.batching import Batches, batches, write_prompts
from support.smollm2 import smollm2

pytestmark = [pytest.mark.mlx_real, pytest.mark.smollm2]

GREEDY = ("--temperature", "0", "--max-tokens", "10")
PROMPTS = {
    "capital": "What is the capital of France?",
    "sky": "Why is the sky blue? Answer in one short sentence.",
    "three": "Name three colours.",
    "two": "What is 2 plus 3?",
    "joke": "Tell me a joke about a knife, a fork and a spoon that go to a bar together.",
}


def test_a_batch_says_what_single_runs_say(tmp_path, isolated_cache):
    batch = Batches(smollm2(), tmp_path, isolated_cache.env)
    write_prompts(batch.source, PROMPTS)
    assert batch("--json", *GREEDY).data["batch_size"] == (len(PROMPTS) if batches() else 1)
    answers = batch.answers
    assert answers["capital"]["response"] == "The capital of France is Paris."
    for key, prompt in PROMPTS.items():
        assert answers[key]["response"] == batch.single(prompt, *GREEDY)["response"]
