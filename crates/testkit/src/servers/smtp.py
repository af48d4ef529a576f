"""A server that takes emails, for tests: aiosmtpd on a loopback port of its own choice.

Writes a line of JSON to standard output for each thing that happens: the port first, then each
message. Ends when its standard input does. Arguments: tls (implicit, starttls, none), certificate
and key (paths), user and password (empty for none).

Recipients whose address begins with "busy" are refused for now the first time that they are seen,
with "nobody" for good.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

mode, certificate, key, user, password = sys.argv[1:6]


def tell(what):
    print(json.dumps(what), flush=True)


class Handler:
    def __init__(self):
        self.seen = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        if address.startswith("busy") and address not in self.seen:
            self.seen.add(address)
            return "451 4.7.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        tell({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode("utf-8", "replace"),
            "encrypted": session.ssl is not None or mode == "implicit",
            "user": session.auth_data.login.decode() if session.auth_data else None,
        })
        return "250 taken"


def authenticator(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=right, handled=right, auth_data=data)


async def main():
    context = None
    if mode != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    handler = Handler()

    def session():
        return SMTP(
            handler,
            hostname="localhost",
            tls_context=context if mode == "starttls" else None,
            require_starttls=mode == "starttls",
            authenticator=authenticator if user else None,
            auth_required=bool(user),
            auth_require_tls=mode == "starttls",
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", 0, ssl=context if mode == "implicit" else None)
    tell({"port": server.sockets[0].getsockname()[1]})
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
