"""The second port: LFS content behind signed URLs, up and down. Knows no users: the signature is the right."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from .answers import Call, Refusal, Response, file_answer
from .repo import Repo
from .store import Entry

if TYPE_CHECKING:
    from .server import HubServer


@dataclass
class Signature:
    """What a signed URL is good for."""

    repo: Repo
    file: str
    sha256: str
    size: int
    upload: bool
    uses: int = 0


class Storage:
    """Signs URLs, and answers them."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub
        self._signed: dict[str, Signature] = {}
        self._lock = threading.Lock()

    def url(self, repo: Repo, entry: Entry, file: str) -> str:
        """Give a URL that an entry can be fetched from."""
        return self._sign(Signature(repo, file, entry.sha256, entry.size, False), "")

    def upload_url(self, repo: Repo, sha256: str, size: int) -> str:
        """Give a URL that an object can be PUT to."""
        return self._sign(Signature(repo, sha256, sha256, size, True), "/upload")

    def signature(self, query: dict[str, list[str]]) -> Signature | None:
        with self._lock:
            return self._signed.get(query.get("sig", [""])[0])

    def answer(self, call: Call, signature: Signature | None) -> Response:
        """Answer a request to the second port. Raises: Refusal."""
        if "authorization" in call.headers:
            raise Refusal(400, "InvalidArgument: only one auth mechanism allowed")
        if signature is None or not call.request.path.endswith("/" + signature.sha256):
            raise Refusal(403, "SignatureDoesNotMatch")
        if signature.upload != (call.request.method == "PUT"):
            raise Refusal(403, "SignatureDoesNotMatch: another method was signed")
        with self._lock:
            signature.uses += 1
        if self._hub.faults.take(call.request, "expire", when=lambda fault: fault.after < signature.uses):
            raise Refusal(403, "AccessDenied: Request has expired")
        return self._receive(call, signature) if signature.upload else self._give(call, signature)

    def _sign(self, signature: Signature, prefix: str) -> str:
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._signed[key] = signature
        path = f"{prefix}/{quote(signature.repo.id)}/{signature.sha256}"
        return f"{self._hub.storage_endpoint}{path}?sig={key}&X-Amz-Expires=3600&x-id=object"

    def _give(self, call: Call, signature: Signature) -> Response:
        # As on the Hub, this ETag is the storage's own and no sha256.
        headers = {"ETag": f'"{signature.sha256[:32]}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        path = self._hub.objects.path(signature.sha256)
        return file_answer(call, path, signature.size, headers)

    def _receive(self, call: Call, signature: Signature) -> Response:
        try:
            size = self._hub.objects.add_stream(call.body, signature.sha256)
        except ValueError as error:
            raise Refusal(400, "BadDigest: the content is not what was announced") from error
        if size != signature.size:
            raise Refusal(400, "BadDigest: the length is not what was announced")
        signature.repo.receive(signature.sha256)
        return Response(200, {"ETag": f'"{signature.sha256[:32]}"'})
