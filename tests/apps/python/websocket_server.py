"""Serves WebSockets. It uses TLS if it gets a key and a chain, and logs its port."""

import asyncio
import ssl
import sys

from websockets.asyncio.server import serve


async def answer(connection):
    if connection.request.path.startswith("/ws/close"):
        await connection.close(4001, "as asked")
        return
    if connection.request.path.startswith("/ws/greet"):
        await connection.send("hello")
    async for message in connection:
        await connection.send(message)


def refuse(connection, request):
    if request.path.startswith("/ws/refused"):
        return connection.respond(403, "not here\n")
    return None


async def main(key=None, chain=None):
    context = None
    if key:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        context.set_alpn_protocols(["http/1.1"])
    options = {"process_request": refuse, "subprotocols": ["chat"], "max_size": None}
    async with serve(answer, "127.0.0.1", 0, ssl=context, **options) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
