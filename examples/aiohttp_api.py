"""An aiohttp API with login, a protected route and logout. Run as many as you like:

REVOKER_ALGORITHMS=HS256 REVOKER_KEY_SECRET=... REVOKER_COOKIE_SECURE=false python examples/aiohttp_api.py
"""

import time
import uuid

from aiohttp import web

from consumers.aiohttp import CLAIMS, TOKEN, add_health_routes, public, setup
from consumers.node import Node
from revoker.errors import PublishError
from revoker.publisher import Publisher
from revoker.settings import Settings
from revoker.tokens import sign

PASSWORDS = {"alice": "wonderland"}
settings = Settings.load()
node = Node(settings)
publisher = Publisher(settings, on_accepted=node.apply)


@public
async def login(request: web.Request) -> web.Response:
    form = await request.post()
    name, now = form.get("name"), int(time.time())
    if not isinstance(name, str) or PASSWORDS.get(name) != form.get("password"):
        raise web.HTTPUnauthorized
    claims = {"iss": settings.issuer or "me", "sub": name, "jti": uuid.uuid4().hex, "iat": now, "exp": now + 900}
    token = sign(claims, key=settings.key_secret or "", algorithm=settings.algorithms[0])
    response = web.json_response({"access_token": token, "token_type": "Bearer"})
    response.set_cookie(settings.cookie_name, token, httponly=True, secure=settings.cookie_secure, samesite="Lax")
    return response


async def whoami(request: web.Request) -> web.Response:
    return web.json_response({"sub": request[CLAIMS]["sub"]})


async def logout(request: web.Request) -> web.Response:
    try:
        await publisher.logout(request[TOKEN])  # returns once the brokers have it; every node refuses it from then on
    except PublishError as error:
        raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": "1"}) from error
    response = web.Response(status=204)
    response.del_cookie(settings.cookie_name, httponly=True, secure=settings.cookie_secure, samesite="Lax")
    return response


app = web.Application()
setup(app, node)
add_health_routes(app, node)
app.on_cleanup.append(lambda _app: publisher.close())
app.add_routes([web.post("/login", login), web.get("/whoami", whoami), web.post("/logout", logout)])
if __name__ == "__main__":
    web.run_app(app, host=settings.listen_address[0], port=settings.listen_address[1])
