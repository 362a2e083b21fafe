"""Fake API servers in a process of their own: chunked answers over TLS on a loopback port."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from urllib.parse import parse_qs, urlsplit

Query = dict[str, list[str]]
Answer = Callable[[str, str, Query], AsyncIterator[bytes]]
"""The parts of a body, by the first segment of the path, the rest of it and the query; PermissionError is a 403."""


async def serve(answer: Answer, cert: str, key: str) -> None:
    """Print the port, and serve until standard input ends: the process ends with its parent, which holds it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(partial(_connection, answer), "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _connection(answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            url = urlsplit(head.split(b" ", 2)[1].decode())
            _, name, *rest = url.path.split("/")
            try:
                await _send(writer, answer(name, "/" + "/".join(rest), parse_qs(url.query)))
            except PermissionError as error:
                body = json.dumps({"kind": "Status", "code": 403, "message": str(error)}).encode()
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, parts: AsyncIterator[bytes]) -> None:
    begun = False
    async for part in parts:
        if not begun:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            begun = True
        if writer.transport.is_closing():
            raise ConnectionError
        writer.write(b"%x\r\n" % len(part) + part + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
