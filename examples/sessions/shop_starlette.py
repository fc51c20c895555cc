"""The same basket with Starlette.  Its own SessionMiddleware keeps the session in the cookie; starsessions in Redis."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore


async def put(request):
    request.session["basket"] = [*request.session.get("basket", []), request.path_params["thing"]]
    return JSONResponse({"worker": os.getpid()})


async def basket(request):
    return JSONResponse({"worker": os.getpid(), "basket": request.session.get("basket", [])})


def app():
    """A factory: each worker makes its own connection to Redis, after the fork."""
    store = RedisStore(os.environ["REDIS_URL"])
    sessions = Middleware(SessionMiddleware, store=store, cookie_https_only=False)
    routes = [Route("/basket", basket), Route("/basket/{thing}", put, methods=["POST"])]
    return Starlette(routes=routes, middleware=[sessions, Middleware(SessionAutoloadMiddleware)])
