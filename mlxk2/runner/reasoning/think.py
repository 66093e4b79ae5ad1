"""The `<think>` family: one opening and one closing tag, spelled in many ways."""

from __future__ import annotations

from .tags import Tags

# Source: the chat templates of the models named, and the reasoning parsers of mlx-lm (tokenizer_utils) and vLLM.
FORMATS = (
    Tags("longcat_think", ("<longcat_think>",), "</longcat_think>"),  # LongCat
    Tags("think_start", ("<|think:start|>",), "<|think:end|>"),
    Tags("seed_think", ("<seed:think>",), "</seed:think>"),  # Seed-OSS
    Tags("mm_think", ("<mm:think>",), "</mm:think>"),  # MiniMax-M3
    Tags("mistral_think", ("[THINK]",), "[/THINK]"),  # Magistral, Ministral
    Tags("inner", ("<|inner_prefix|>",), "<|inner_suffix|>"),  # Apertus
    Tags("kimi_think", ("◁think▷",), "◁/think▷"),  # Kimi-VL-Thinking, Kimi-Dev
    # Hunyuan; also prompts in the manner of DeepSeek-R1-Zero.
    Tags("think_answer", ("<think>",), "</think>", answer_opener="<answer>", answer_closers=("</answer>",)),
    # ERNIE 4.5 Thinking.
    Tags("think_response", ("<think>",), "</think>", answer_opener="<response>", answer_closers=("</response>",)),
    # DeepSeek-R1, Qwen3, QwQ, GLM, MiniMax-M2, Nemotron, OLMo 3, SmolLM3, Phi-4-reasoning and many more.
    Tags("think", ("<think>",), "</think>"),
)
