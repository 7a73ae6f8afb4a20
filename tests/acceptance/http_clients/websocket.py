# SPDX-License-Identifier: Apache-2.0
"""An echo over WebSocket and its client: `websocket.py serve ADDRESS PORT`, `websocket.py ask URL`."""

import asyncio
import sys

import websockets

LARGEST = 1 << 22


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve(address, port):
    async with websockets.serve(echo, address, int(port), max_size=LARGEST):
        print("listening", flush=True)
        await asyncio.Future()


async def ask(url):
    url = url.replace("http:", "ws:")
    # With and without compression: the frames differ.
    for compression in ("deflate", None):
        async with websockets.connect(url, max_size=LARGEST, compression=compression) as socket:
            for message in ("text", "", bytes(range(256)) * 4096):
                await socket.send(message)
                heard = await asyncio.wait_for(socket.recv(), 30)
                assert heard == message, f"{len(heard)} of {len(message)}"
            await asyncio.wait_for(await socket.ping(), 30)
            await socket.close(4321, "done")
            assert (socket.close_code, socket.close_reason) == (4321, "done"), socket.close_code


roles = {"serve": serve, "ask": ask}
asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
