"""A peer: an aiohttp server as its documentation has it, with every default."""

import ssl
import sys

from aiohttp import web


async def livez(_: web.Request) -> web.Response:
    return web.Response(text="ok")


if __name__ == "__main__":
    port, cert, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/metrics", livez)])
    web.run_app(app, host="127.0.0.1", port=int(port), ssl_context=context)
