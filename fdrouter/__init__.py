"""fdrouter: hospital language models behind differential privacy. The public SDK is imported lazily from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdrouter.sdk import AsyncPrivateInferenceClient as AsyncPrivateInferenceClient
    from fdrouter.sdk import Conflict as Conflict
    from fdrouter.sdk import IdentityMismatch as IdentityMismatch
    from fdrouter.sdk import InvalidRequest as InvalidRequest
    from fdrouter.sdk import NodeUnavailable as NodeUnavailable
    from fdrouter.sdk import NotAuthenticated as NotAuthenticated
    from fdrouter.sdk import NotFound as NotFound
    from fdrouter.sdk import NotOffered as NotOffered
    from fdrouter.sdk import PolicyDenied as PolicyDenied
    from fdrouter.sdk import PrivacyBudgetExceeded as PrivacyBudgetExceeded
    from fdrouter.sdk import PrivateInferenceClient as PrivateInferenceClient
    from fdrouter.sdk import ReceiptInvalid as ReceiptInvalid
    from fdrouter.sdk import Response as Response
    from fdrouter.sdk import RouterError as RouterError
    from fdrouter.sdk import RouterUnreachable as RouterUnreachable

__version__ = "0.1.0"
__all__ = [
    "AsyncPrivateInferenceClient",
    "Conflict",
    "IdentityMismatch",
    "InvalidRequest",
    "NodeUnavailable",
    "NotAuthenticated",
    "NotFound",
    "NotOffered",
    "PolicyDenied",
    "PrivacyBudgetExceeded",
    "PrivateInferenceClient",
    "ReceiptInvalid",
    "Response",
    "RouterError",
    "RouterUnreachable",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("fdrouter.sdk"), name)
    raise AttributeError(f"module 'fdrouter' has no attribute {name!r}")
