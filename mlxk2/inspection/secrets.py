"""Does a file look like something that must not leave this machine? Tells by name and by content; never says the value."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

# Larger texts are data; nobody keeps a key in them.
LARGEST_TEXT_BYTES = 32 * 2**20

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

# Where a token may begin: not within a word, but right behind an escaped line end, as JSON and notebooks have it.
_START = rb"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
# Each begins with fixed text, has bounded repeats, and so is searched in linear time.
_TOKENS = (
    (re.compile(_START + rb"(?:hf_|hf_oauth_|api_org_)([A-Za-z0-9]{30,100})"), "Hugging Face token"),
    (re.compile(_START + rb"sk-([A-Za-z0-9_\-]{20,200})"), "API key"),
    (re.compile(_START + rb"(?:AKIA|ASIA)([A-Z0-9]{16})\b"), "AWS key"),
    (re.compile(_START + rb"gh[pousr]_([A-Za-z0-9]{36,255})"), "GitHub token"),
    (re.compile(_START + rb"github_pat_([A-Za-z0-9_]{40,255})"), "GitHub token"),
    (re.compile(_START + rb"glpat-([A-Za-z0-9_\-]{20,100})"), "GitLab token"),
    (re.compile(_START + rb"xox[abprs]-([A-Za-z0-9\-]{20,200})"), "Slack token"),
    (re.compile(_START + rb"AIza([A-Za-z0-9_\-]{35})"), "Google key"),
    (re.compile(_START + rb"npm_([A-Za-z0-9]{36})"), "npm token"),
    (re.compile(_START + rb"pypi-([A-Za-z0-9_\-]{40,300})"), "PyPI token"),
    (re.compile(_START + rb"[sr]k_live_([A-Za-z0-9]{20,100})"), "Stripe key"),
    (re.compile(rb"(?i:aws_secret_access_key)[\"' ]{0,3}[=:][\"' ]{0,3}([A-Za-z0-9/+]{40})"), "AWS key"),
)
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_FEWEST_DIFFERENT = 10
_LONG_PART = 12


def suspect_name(path: str) -> str | None:
    """Say what a file seems to be by its name, e.g. "private key"; None for a harmless one."""
    *folders, own = path.lower().split("/")
    for folder in folders:
        if folder in _FOLDERS:
            return _FOLDERS[folder]
    return next((kind for pattern, kind in _NAMES if fnmatchcase(own, pattern)), None)


def suspect_content(data: bytes) -> str | None:
    """Say what a text holds, e.g. "AWS key"; None where there is nothing of the kind."""
    text = _as_text(data)
    if _PRIVATE_KEY.search(text):
        return "private key"
    for pattern, kind in _TOKENS:
        if any(_is_random(found[1]) for found in pattern.finditer(text)):
            return kind
    return None


def _as_text(data: bytes) -> bytes:
    """Return what can be searched: UTF-16 in the bytes of ASCII, anything else, a pickle say, as it is."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data[1::2].count(0) * 2 > len(data[1::2]) > 0:
        return data.replace(b"\0", b"")
    return data


def _is_random(secret: bytes) -> bool:
    """Tell a key from words and placeholders such as `hf_xxxxxxxx`: a long part of it mixes digits and letters."""
    if secret.endswith(b"EXAMPLE") or len(set(secret)) < _FEWEST_DIFFERENT:
        return False
    return any(_mixes(part) for part in re.split(rb"[-_]", secret))


def _mixes(part: bytes) -> bool:
    has_digit = any(letter in b"0123456789" for letter in part)
    return len(part) >= _LONG_PART and has_digit and not part.isdigit()
