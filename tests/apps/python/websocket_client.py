"""Opens WebSockets and checks what comes back. It ends with status 0 if all is right.

The file of roots makes it use TLS. A dash in its place means no TLS."""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus


def same(found, expected):
    assert found == expected, f"{found!r}, expected {expected!r}"


async def main(roots, port):
    context, url = None, f"ws://127.0.0.1:{port}"
    if roots != "-":
        context, url = ssl.create_default_context(cafile=roots), f"wss://localhost:{port}"

    def open_at(path):
        options = {"ssl": context, "subprotocols": ["chat"], "max_size": None}
        return connect(f"{url}/ws/{path}", **options)

    async with open_at("echo") as connection:
        same(connection.subprotocol, "chat")
        for message in ("abc", b"\x00\xff", "", "\u00e4" * 1000, bytes(1024 * 1024), "x" * (4 * 1024 * 1024)):
            await connection.send(message)
            same(await connection.recv(), message)
        for number in range(200):
            await connection.send(str(number))
        same([await connection.recv() for _ in range(200)], [str(number) for number in range(200)])
        await (await connection.ping(b"are you there"))
    same(connection.close_code, 1000)

    async with open_at("greet") as connection:
        same(await connection.recv(), "hello")

    async with open_at("close") as connection:
        try:
            await connection.recv()
        except ConnectionClosedError as closed:
            same((closed.rcvd.code, closed.rcvd.reason), (4001, "as asked"))
        else:
            raise AssertionError("not closed")

    try:
        async with open_at("refused"):
            raise AssertionError("not refused")
    except InvalidStatus as refused:
        same((refused.response.status_code, refused.response.body), (403, b"not here\n"))


asyncio.run(main(*sys.argv[1:]))
