"""Who may cosign this log's checkpoints: the nodes that are enrolled here, by the names of their identities."""

from __future__ import annotations

from federation.identity import PublicIdentity, load_public
from federation.models import Node


def known() -> dict[str, PublicIdentity]:
    """The public identities of all nodes that have keys, by name."""
    found = {}
    for keys in Node.objects.order_by("pk").values_list("public_keys", flat=True):
        try:
            public = load_public(keys)
        except (KeyError, TypeError, ValueError):
            continue
        found[public.name] = public
    return found
