"""A small identity provider for the demo: ``POST /login`` answers a signed token, in the body and as a cookie."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from revoker.tokens import sign

__all__ = ["ALGORITHM", "COOKIE", "KID", "IdentityProvider"]

ALGORITHM = "ES256"
COOKIE = "USER_SESSION"
KID = "demo-1"

_TOKEN_LIFE_S = 900


class IdentityProvider:
    """Signs with a key made for this run. Use it as ``async with IdentityProvider(key_file=…) as provider``.

    ``key_file``: where the public key is written, PEM, for those who verify. ``issuer``: known once it listens.
    """

    def __init__(self, *, key_file: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._runner: web.AppRunner | None = None
        self.issuer: str = ""
        pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key_file.write_bytes(pem)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/login", self._login)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.issuer = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def token(self, user: str) -> str:
        """A token of a new session of ``user``."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": user,
            "sid": str(uuid.uuid4()),
            "jti": str(uuid.uuid4()),
            "iat": now,
            "exp": now + _TOKEN_LIFE_S,
        }
        return sign(claims, key=self._key, algorithm=ALGORITHM, headers={"kid": KID})

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        user = form.get("user")
        if not isinstance(user, str) or not user:
            raise web.HTTPBadRequest(text="the form field user is missing: who logs in?\n")
        token = self.token(user)
        response = web.json_response({"token": token, "token_type": "Bearer", "expires_in": _TOKEN_LIFE_S})
        # Not Secure: everything here is plain HTTP on loopback.
        response.set_cookie(COOKIE, token, httponly=True, samesite="Lax", max_age=_TOKEN_LIFE_S)
        return response
