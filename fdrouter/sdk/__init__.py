"""The public SDK: private questions to a router, from any Python process. It needs neither Django nor settings."""

from __future__ import annotations

from fdrouter.sdk.answers import Remaining, Response
from fdrouter.sdk.client import AsyncPrivateInferenceClient, AsyncTextStream, PrivateInferenceClient, TextStream
from fdrouter.sdk.errors import (
    Conflict,
    IdentityMismatch,
    InvalidRequest,
    NodeUnavailable,
    NotAuthenticated,
    NotFound,
    NotOffered,
    PolicyDenied,
    PrivacyBudgetExceeded,
    ReceiptInvalid,
    RouterError,
    RouterUnreachable,
)

__all__ = [
    "AsyncPrivateInferenceClient",
    "AsyncTextStream",
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
    "Remaining",
    "Response",
    "RouterError",
    "RouterUnreachable",
    "TextStream",
]
