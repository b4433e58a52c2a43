"""The HTTP port for probes and metrics: `/healthz` (alive), `/readyz` (may be given work), `/metrics`. Text, no state, no secrets.

`ready` returns None when ready, else one sentence that becomes the 503 body. Checks are bounded by `CHECK_SECONDS_MAX`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from mogile_core.errors import SettingError
from mogile_core.runtime.metrics import CONTENT_TYPE

CHECK_SECONDS_MAX = 5.0

Check = Callable[[], Awaitable[str | None]]
Text = Callable[[], Awaitable[str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def health_app(
    *, live: Check, ready: Check, metrics: Text, extra: Mapping[str, Handler] | None = None
) -> web.Application:
    """The aiohttp application; `extra` adds GET routes."""

    def answer(check: Check) -> Handler:
        async def handle(_: web.Request) -> web.Response:
            try:
                async with asyncio.timeout(CHECK_SECONDS_MAX):
                    problem = await check()
            except TimeoutError:
                problem = f"no answer within {CHECK_SECONDS_MAX} s"
            return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

        return handle

    async def handle_metrics(_: web.Request) -> web.Response:
        return web.Response(body=(await metrics()).encode(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", answer(live))
    app.router.add_get("/readyz", answer(ready))
    app.router.add_get("/metrics", handle_metrics)
    for path, handler in (extra or {}).items():
        app.router.add_get(path, handler)
    return app


class HealthServer:
    """Runs the application on an address; port 0 picks a free one (`port` tells which)."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._host, self.port = host, port

    async def start(self) -> None:
        """Listen; SettingError when the port is taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingError(f"cannot listen on {self._host}:{self.port}: {error.strerror or error}") from error
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()


async def always_ok() -> str | None:
    """A check for processes that are alive as long as they answer."""
    return None
