"""Bearer tokens for the REST API (``/v1`` has its own, batched check in SQL)."""

from __future__ import annotations

from typing import ClassVar

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import principals
from accounts.models import User
from fdrouter.errors import Unauthenticated


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Bearer <token>``. A subclass that names a ``scope`` takes tokens for that alone, too."""

    scope: ClassVar[str | None] = None

    def authenticate(self, request: Request) -> tuple[User, principals.Principal] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        try:
            principal = principals.for_token(principals.token_digest(token.strip()), scope=self.scope)
        except Unauthenticated as error:
            raise AuthenticationFailed(error.message) from None
        return User.objects.get(pk=principal.user_id), principal

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
