"""RENDERERS: for each command the words that people read, made from the JSON payload alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Callable

from mlxk2.output.ps import render_ps
from mlxk2.output.push import render_push
from mlxk2.output.table import health_word, modified, render_list
from mlxk2.output.view import View
from mlxk2.text import one_line, printable
from mlxk2.units import format_count, format_size

Payload = Mapping[str, Any]
Renderer = Callable[[Payload, Mapping[str, Any], View], None]


# What may have become of a prompt, besides an answer.
_OTHER_PROMPTS = (("failed", "failed"), ("skipped", "answered before"), ("remaining", "not answered yet"))


def render(command: str, data: Payload, options: Mapping[str, Any], view: View) -> None:
    """Print a payload; `options` are the command's own flags."""
    RENDERERS[command](data, options, view)


def _version(data: Payload, options: Mapping[str, Any], view: View) -> None:
    view.write(f"mlxk2 {data['cli_version']}\n")


def _health(data: Payload, options: Mapping[str, Any], view: View) -> None:
    summary = data["summary"]
    lines = [
        f"Summary: total {summary['total']}, healthy {summary['healthy_count']}, unhealthy {summary['unhealthy_count']}"
    ]
    for model in (*data["healthy"], *data["unhealthy"]):
        mark = _painted(model["status"], "32" if model["status"] == "healthy" else "31", view)
        lines.append(f"{mark} {one_line(model['name'])} — {one_line(model['reason'])}")
        lines += [f"  {line}" for line in _origin(model)]
        if options.get("verbose"):
            lines += [f"  {one_line(_finding(finding))}" for finding in model.get("findings", ())]
    view.write("\n".join(lines) + "\n")


def _finding(finding: Mapping[str, Any]) -> str:
    place = f" ({finding['path']})" if finding["path"] else ""
    return f"{finding['code']}: {finding['message']}{place}"


def _show(data: Payload, options: Mapping[str, Any], view: View) -> None:
    model = data["model"]
    at = f"@{model['hash'][:7]}" if model["hash"] else ""
    lines = [
        f"Model: {one_line(model['name'])}{at}",
        f"Framework: {model['framework']}",
        f"Type: {model['model_type']}",
        f"Size: {format_size(model['size_bytes'], ' ')}",
        f"Modified: {modified(model, view.now)}",
        f"Health: {health_word(model)}",
    ]
    if model["reason"]:
        lines.append(f"Reason: {one_line(model['reason'])}")
    if "path" in data:
        lines.append(f"Path: {one_line(data['path'])}")
    lines += _origin(data) + _facts(model) + _memory(data.get("memory"))
    view.write("\n".join(lines + _section(data)) + "\n")


def _origin(data: Mapping[str, Any]) -> list[str]:
    """Where a cloned folder comes from, and whether it still is what was cloned."""
    origin = data.get("origin")
    if origin is None:
        return []
    at = f"@{origin['revision'][:7]}" if origin["revision"] else ""
    count = len(origin["changed"])
    state = f"{count} {'file' if count == 1 else 'files'} changed" if count else "unchanged"
    return [f"Origin: {one_line(origin['model'])}{at} ({state})"]


def _facts(model: Mapping[str, Any]) -> list[str]:
    lines = []
    if model.get("parameters") is not None:
        lines.append(f"Parameters: {format_count(model['parameters'])}")
    return lines


def _memory(memory: Mapping[str, Any] | None) -> list[str]:
    if memory is None or memory["weights_bytes"] is None:
        return []
    parts = [f"weights {format_size(memory['weights_bytes'], ' ')}"]
    if memory["kv_bytes_per_token"] is not None:
        parts.append(f"KV cache {format_size(memory['kv_bytes_per_token'], ' ')} a token")
    if memory["recommended_bytes"] is not None:
        parts.append(f"recommended {format_size(memory['recommended_bytes'], ' ')}")
    return ["Memory: " + ", ".join(parts)]


def _section(data: Payload) -> list[str]:
    if "files" in data:
        files = data["files"]
        width = max((len(one_line(file["name"])) for file in files), default=0)
        return ["", "Files:", *(f"  {one_line(f['name']):<{width}}  {f['size']:>9}  {f['type']}" for f in files)]
    if "config" in data:
        return ["", "Config:", printable(json.dumps(data["config"], indent=2, ensure_ascii=False))]
    return ["", "Metadata:", *(f"  {key}: {one_line(str(value))}" for key, value in (data["metadata"] or {}).items())]


def _rm(data: Payload, options: Mapping[str, Any], view: View) -> None:
    view.write(f"rm: {one_line(data['model'])} — {data['action']}: {one_line(data['message'])}\n")


def _pull(data: Payload, options: Mapping[str, Any], view: View) -> None:
    lines = [f"pull: {one_line(data['model'])} — {one_line(data['message'])}"]
    if "preview" in data:
        lines += _preview(data["preview"])
        files = [file for file in data["files"] if file["action"] != "reuse"]
        width = max((len(one_line(file["name"])) for file in files), default=0)
        lines += ["", "Files:"] if files else []
        lines += [
            f"  {one_line(file['name']):<{width}}  {format_size(file['size_bytes'], ' '):>9}  {file['action']}"
            for file in files
        ]
    view.write("\n".join(lines) + "\n")


def _preview(preview: Mapping[str, Any]) -> list[str]:
    """What a model is, before it is fetched."""
    runs = "yes" if preview["runtime_compatible"] else f"no, {one_line(preview['reason'] or '')}"
    lines = [
        f"Framework: {preview['framework']}",
        f"Type: {preview['model_type']}",
        f"Architecture: {one_line(preview['architecture'] or '-')}",
        f"Runs here: {runs}",
    ]
    return lines + _facts(preview) + _memory(preview.get("memory"))


def _run(data: Payload, options: Mapping[str, Any], view: View) -> None:
    if "response" not in data:
        view.write(f"run: {one_line(data['model'])} — {_batch(data)} → {one_line(data['output'])}\n")
        return
    text = printable(data["response"]) if view.on_terminal else data["response"]
    view.write(text if text.endswith("\n") else text + "\n")


def _batch(data: Payload) -> str:
    """What a batch came to."""
    counts = [f"{data['answered']} answered"]
    counts += [f"{data[name]} {word}" for name, word in _OTHER_PROMPTS if data[name]]
    prompts = "1 prompt" if data["total"] == 1 else f"{data['total']} prompts"
    speed = f" ({data['tokens_per_second']:.1f} tokens/s)" if data["answered"] else ""
    return f"{prompts}: {', '.join(counts)}{speed}"


def _convert(data: Payload, options: Mapping[str, Any], view: View) -> None:
    view.write(f"convert: {one_line(data['source'])} → {one_line(data['target_dir'])} ({one_line(data['message'])})\n")


def _clone(data: Payload, options: Mapping[str, Any], view: View) -> None:
    health = "✓ health" if data["health_check"] else "health not checked"
    view.write(f"clone: {one_line(data['model'])} → {one_line(data['target_dir'])} ({health})\n")


def _serve(data: Payload, options: Mapping[str, Any], view: View) -> None:
    model = one_line(data["model"]) if data["model"] else "loads models as they are asked for"
    view.write(f"serve: {one_line(data['url'])} — {model} (API: /v1, documents: /docs; Ctrl-C ends it)\n")


def _schema(data: Payload, options: Mapping[str, Any], view: View) -> None:
    view.write(json.dumps(data["schema"], indent=2, ensure_ascii=False) + "\n")


def _painted(word: str, code: str, view: View) -> str:
    return f"\x1b[{code}m{word}\x1b[0m" if view.color else word


RENDERERS: dict[str, Renderer] = {
    "version": _version,
    "list": render_list,
    "show": _show,
    "health": _health,
    "pull": _pull,
    "rm": _rm,
    "run": _run,
    "convert": _convert,
    "clone": _clone,
    "push": render_push,
    "serve": _serve,
    "ps": render_ps,
    "schema": _schema,
}
