"""The same API on FastAPI; its login takes JSON. REVOKER_ALGORITHMS=HS256 REVOKER_KEY_SECRET=... and so on."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Response

from consumers.asgi import health_app
from consumers.fastapi import Bearer
from consumers.node import Node
from revoker.errors import PublishError
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import Verified, sign

node = Node(settings := Settings.load())
Token = Annotated[Verified, Depends(Bearer(node))]
publisher = Publisher(settings, on_accepted=node.apply)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with node:
        yield
    await publisher.close()


app = FastAPI(lifespan=lifespan)


@app.post("/login")
def login(name: Annotated[str, Body()], password: Annotated[str, Body()], response: Response) -> dict[str, str]:
    if (name, password) != ("alice", "wonderland"):
        raise HTTPException(401)
    claims = {"iss": settings.issuer or "me", "sub": name, "jti": uuid.uuid4().hex, "iat": (now := int(time.time()))}
    token = sign(claims | {"exp": now + 900}, key=settings.key_secret or "", algorithm=settings.algorithms[0])
    response.set_cookie(settings.cookie_name, token, httponly=True, secure=settings.cookie_secure, samesite="lax")
    return {"access_token": token, "token_type": "Bearer"}


@app.get("/whoami")
def whoami(token: Token) -> dict[str, str]:
    return {"sub": token.claims["sub"]}


@app.post("/logout", status_code=204)
async def logout(token: Token, response: Response) -> None:
    try:
        await publisher.logout(token)  # returns once the brokers have it; every node refuses it from then on
    except PublishError as error:
        raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
    response.delete_cookie(settings.cookie_name, httponly=True, secure=settings.cookie_secure, samesite="lax")


if __name__ == "__main__":
    uvicorn.run(health_app(node, fallback=app), host=settings.listen_address[0], port=settings.listen_address[1])
