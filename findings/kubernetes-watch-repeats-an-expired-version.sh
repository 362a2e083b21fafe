#!/bin/sh
# A watch of the Kubernetes client 37.0.2 that expired (410) is asked for once more with the version that expired.
#
# Watch.stream() retries a 410 by itself, with threads and with asyncio. It keeps the resourceVersion it was given, so
# the second request can only be answered the same way: the error then reaches the caller one round trip later, from a
# server that is likely to be busy. Whoever follows a kind must list again to get a version that is still known; the
# retry does not do that.
#
# Seen (CPython 3.11): the versions that each one asks for, and how the stream ends.
#   asyncio: 7 7 raises 410
#   threads: 7 7 raises 410
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes==37.0.2 aiohttp==3.14.5
seen=$("$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

asked = []


class Expired(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        asked.append(query.get("resourceVersion", ["none"])[0])
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                  "message": "too old resource version", "reason": "Expired", "code": 410}
        body = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Expired)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_port}"


async def with_asyncio():
    from kubernetes.aio import client, watch

    async with client.ApiClient(client.Configuration(host=host)) as api:
        w = watch.Watch()
        try:
            async for event in w.stream(client.CoreV1Api(api).list_namespace, resource_version="7"):
                print("event", event)
        except client.exceptions.ApiException as error:
            return f"raises {error.status}"
        return "ends"


def with_threads():
    from kubernetes import client, watch

    api = client.CoreV1Api(client.ApiClient(client.Configuration(host=host)))
    try:
        for event in watch.Watch().stream(api.list_namespace, resource_version="7"):
            print("event", event)
    except client.exceptions.ApiException as error:
        return f"raises {error.status}"
    return "ends"


end = asyncio.run(with_asyncio())
print("asyncio:", " ".join(asked), end)
asked.clear()
end = with_threads()
print("threads:", " ".join(asked), end)
PYTHON
)
echo "$seen"
test "$seen" = "asyncio: 7 7 raises 410
threads: 7 7 raises 410" || { echo "the behaviour has changed" >&2; exit 1; }
