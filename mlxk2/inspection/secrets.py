"""Does a file look like something that must not leave this machine? Tells by name and by content; never says the value."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

# Larger texts are data; nobody keeps a key in them.
LARGEST_TEXT_BYTES = 8 * 2**20
_SAMPLE_BYTES = 8192

_NAMES = (
    (".env*", "environment file"),
    ("id_rsa", "private key"),
    ("id_dsa", "private key"),
    ("id_ecdsa", "private key"),
    ("id_ecdsa_sk", "private key"),
    ("id_ed25519", "private key"),
    ("id_ed25519_sk", "private key"),
    ("*.pem", "private key"),
    ("*.key", "private key"),
    ("*.p12", "private key"),
    ("*.pfx", "private key"),
    ("*.p8", "private key"),
    ("*.ppk", "private key"),
    ("*.jks", "private key"),
    ("*.keystore", "private key"),
    (".netrc", "login file"),
    (".pypirc", "login file"),
    (".npmrc", "login file"),
    (".git-credentials", "login file"),
)
_FOLDERS = {".ssh": "private key", ".aws": "login file", ".gnupg": "private key"}

# Each begins with fixed text, has bounded repeats, and so is searched in linear time.
_TOKENS = (
    (re.compile(rb"\bhf_([A-Za-z0-9]{30,100})"), "Hugging Face token"),
    (re.compile(rb"\bsk-([A-Za-z0-9_\-]{20,200})"), "API key"),
    (re.compile(rb"\b(?:AKIA|ASIA)([A-Z0-9]{16})\b"), "AWS key"),
    (re.compile(rb"\bgh[pousr]_([A-Za-z0-9]{36,255})"), "GitHub token"),
    (re.compile(rb"\bgithub_pat_([A-Za-z0-9_]{40,255})"), "GitHub token"),
    (re.compile(rb"\bglpat-([A-Za-z0-9_\-]{20,100})"), "GitLab token"),
    (re.compile(rb"\bxox[abprs]-([A-Za-z0-9\-]{20,200})"), "Slack token"),
    (re.compile(rb"\bAIza([A-Za-z0-9_\-]{35})"), "Google key"),
)
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_FEWEST_DIFFERENT = 10


def suspect_name(path: str) -> str | None:
    """Say what a file seems to be by its name, e.g. "private key"; None for a harmless one."""
    *folders, own = path.lower().split("/")
    for folder in folders:
        if folder in _FOLDERS:
            return _FOLDERS[folder]
    return next((kind for pattern, kind in _NAMES if fnmatchcase(own, pattern)), None)


def suspect_content(data: bytes) -> str | None:
    """Say what a text holds, e.g. "AWS key"; None where there is nothing of the kind, or it is no text."""
    text = _as_text(data)
    if text is None:
        return None
    if _PRIVATE_KEY.search(text):
        return "private key"
    for pattern, kind in _TOKENS:
        if any(_is_random(found[1]) for found in pattern.finditer(text)):
            return kind
    return None


def _as_text(data: bytes) -> bytes | None:
    """Return what can be searched; None for a binary file."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "ignore").encode("utf-8", "ignore")
    return None if b"\0" in data[:_SAMPLE_BYTES] else data


def _is_random(secret: bytes) -> bool:
    """Tell a key from a word or a placeholder such as `hf_xxxxxxxx`: keys mix many letters, both cases or digits."""
    if secret.endswith(b"EXAMPLE") or len(set(secret)) < _FEWEST_DIFFERENT:
        return False
    has_digit = any(letter in b"0123456789" for letter in secret)
    is_word_like = b"-" in secret or b"_" in secret
    mixes_cases = secret != secret.upper() and secret != secret.lower()
    return has_digit or (mixes_cases and not is_word_like)
