"""Several teachers and who is asked what."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from methods.elicitation.writers.protocol import Request, Writer
from methods.errors import MethodError

# From a request to the name of a teacher of the pool.
Router = Callable[[Request], str]


class Pool:
    """Teachers by name, a router that chooses one for each request, and who is asked where that one fails.

    Answers are journalled under the member that wrote them, so a teacher's answers serve any pool it is in. Without a
    router the first is asked. `fallback`: the others are asked in order where the chosen one gives no answer.
    """

    def __init__(
        self, writers: Mapping[str, Writer], router: Router | None = None, *, fallback: bool = False
    ) -> None:
        if not writers:
            raise MethodError("a pool without teachers")
        identities = [writer.identity for writer in writers.values()]
        if len(set(identities)) < len(identities):
            raise MethodError("two teachers of a pool are the same")
        self.writers, self._router, self._fallback = dict(writers), router, fallback

    @property
    def terms(self) -> list[str]:
        """The terms of all members, "" for those nobody knows."""
        return sorted({writer.terms for writer in self.writers.values()})

    def candidates(self, request: Request) -> list[Writer]:
        """Who is asked, and after them those who are asked where they give no answer."""
        name = self._router(request) if self._router is not None else next(iter(self.writers))
        if name not in self.writers:
            raise MethodError(f'the router asks for "{name}"; the pool has {", ".join(self.writers)}')
        first = self.writers[name]
        others = [writer for writer in self.writers.values() if writer is not first]
        return [first, *(others if self._fallback else [])]


def by_note(field: str) -> Router:
    """The teacher that the row asked about names in a field of its own."""
    return lambda request: str(request.note.get(field, ""))


def by_share(shares: Mapping[str, float]) -> Router:
    """Each teacher gets about its share of the requests; which one a request gets depends on the request alone."""
    if not shares or any(share < 0 for share in shares.values()) or not sum(shares.values()) > 0:
        raise MethodError("shares of teachers must be numbers of 0 or more, and not all 0")
    names, weights = list(shares), list(shares.values())
    return lambda request: random.Random(request.key("share")).choices(names, weights)[0]
