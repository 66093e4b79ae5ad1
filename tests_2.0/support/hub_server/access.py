"""Who may do what: tokens, private and gated repositories. Knows nothing of routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .answers import Refusal
from .repo import Repo


@dataclass(frozen=True)
class User:
    """A token's owner, and what the token allows."""

    name: str
    write: bool
    orgs: tuple[str, ...]
    gated_access: tuple[str, ...]

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


class Access:
    """The tokens, and the rules."""

    def __init__(self) -> None:
        self._tokens: dict[str, User] = {}

    def add(self, token: str, user: User) -> None:
        self._tokens[token] = user

    def user(self, headers: Mapping[str, str]) -> User | None:
        """Tell whose token a request carries; None if it carries none. Raises: Refusal for an unknown one."""
        header = headers.get("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or token not in self._tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self._tokens[token]

    @staticmethod
    def may_see(repo: Repo | None, user: User | None) -> Repo:
        """Let only those read metadata who may. A repository that is not seen looks like one that is not there."""
        if repo is not None and (not repo.private or (user is not None and user.owns(repo.namespace))):
            return repo
        if user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    @staticmethod
    def may_fetch(repo: Repo, user: User | None) -> None:
        """Let only those read files who may."""
        if not repo.gated:
            return
        wanted = f"Access to model {repo.id} is restricted"
        if user is None:
            text = f"{wanted}. You must have access to it and be authenticated to access it. Please log in."
            raise Refusal(401, text, "GatedRepo")
        if repo.id not in user.gated_access and not user.owns(repo.namespace):
            raise Refusal(403, f"{wanted} and you are not in the authorized list.", "GatedRepo")

    @staticmethod
    def may_write(namespace: str, user: User | None) -> User:
        """Let only those write who may."""
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not user.write:
            raise Refusal(403, "Your token does not have the rights to write: a write token is needed")
        if not user.owns(namespace):
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
        return user
