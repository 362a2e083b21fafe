"""The site for a kubelet: `/healthz` for liveness, `/readyz` for readiness; each answers in JSON and asks nobody.

No thread watches the event loop: this site lives in it, so one that is blocked answers no probe. Kopf's own endpoint
knows liveness alone and starts after the start-up handlers, so it is there for `kopf run --liveness`.
"""

from __future__ import annotations

from aiohttp import web

from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.operator.lifecycle import Process


class ProbeSite:
    """Serves from before the start to after the end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._runner: web.AppRunner | None = None

    async def serve(self) -> None:
        """Listen; raises ConfigurationError if the port is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        settings = self._process.settings
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
        """500 if a loop has ended, or hangs though it was cancelled."""
        hung = self._process.hung()
        return web.json_response({"alive": not hung, "loops": hung}, status=500 if hung else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        """503 if the operator cannot do its work now, or a standby could not take over, with the reason by part."""
        parts = self._process.unready()
        said = {"ready": not parts, "leader": self._process.leads, "parts": parts}
        return web.json_response(said, status=503 if parts else 200)
