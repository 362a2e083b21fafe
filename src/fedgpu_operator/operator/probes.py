"""The site for a kubelet: `/healthz` for liveness, `/readyz` for readiness; each answers in JSON and asks nobody.

No thread watches the event loop: this site lives in it, so one that is blocked answers no probe.
"""

from __future__ import annotations

from aiohttp import web

from fedgpu_operator.bootstrap import System
from fedgpu_operator.domain.text import clean
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.settings import Settings


class ProbeSite:
    """Serves from before the start to after the end; `system` is None until it is built."""

    def __init__(self) -> None:
        self.system: System | None = None
        self._runner: web.AppRunner | None = None

    async def serve(self, settings: Settings) -> None:
        """Listen; raises ConfigurationError where the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, settings.bind_address, settings.health_port).start()
        except OSError as error:
            await self.close()
            text = f"FEDGPU_HEALTH_PORT: cannot listen on {settings.health_port}: {error}"
            raise ConfigurationError(text) from error

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        """500 if a loop has ended, or hangs though it was cancelled. Nothing outside of this process counts."""
        hung = {} if self.system is None else self.system.hung()
        return _answer(not hung, "alive", {"loops": hung}, failure=500)

    async def _readyz(self, _: web.Request) -> web.Response:
        """503 if the operator cannot do its work now, with the reason by part."""
        parts = {"start": "the operator is starting"} if self.system is None else self.system.unready()
        return _answer(not parts, "ready", {"parts": parts}, failure=503)


def _answer(holds: bool, word: str, detail: dict[str, dict[str, str]], *, failure: int) -> web.Response:
    cleaned = {name: {part: clean(why) for part, why in parts.items()} for name, parts in detail.items()}
    return web.json_response({word: holds, **cleaned}, status=200 if holds else failure)
