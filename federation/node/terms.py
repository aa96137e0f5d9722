"""The public word lists that answers by keywords are made of."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from fdrouter.errors import InvalidParameter


@lru_cache(maxsize=8)
def words_of(name: str) -> tuple[str, ...]:
    """The words and phrases of a list, in its order.

    Raises:
        InvalidParameter: this node has no list of that name.
    """
    folder = settings.BASE_DIR / "configs" / "terms"
    known = {path.stem: path for path in folder.glob("*.txt")}
    if name not in known:
        raise InvalidParameter("This node does not have that word list.", field="terms")
    lines = known[name].read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
