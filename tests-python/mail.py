"""A mail server for the tests. Prints {"port": N}, then each message that it takes, one JSON object a line.

mail.py MODE [CERT KEY]: MODE is plain, starttls or tls. It wants user "evergrant" and password "not-a-real-password",
and knows nobody whose address begins with "nobody@".
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content() for part in message.walk() if not part.is_multipart()}
        taken = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None or MODE == "tls",
            "type": message.get_content_type(),
            "defects": [str(defect) for part in message.walk() for defect in part.defects],
            "headers": {name.lower(): str(value) for name, value in message.items()},
            "parts": parts,
        }
        print(json.dumps(taken), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = (data.login, data.password) == (b"evergrant", b"not-a-real-password")
    return AuthResult(success=right, handled=False)


async def main():
    context = None
    if MODE != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[2], sys.argv[3])

    def session():
        return SMTP(
            Handler(),
            authenticator=authenticate,
            auth_required=True,
            auth_require_tls=False,
            require_starttls=MODE == "starttls",
            tls_context=context if MODE == "starttls" else None,
        )

    tls = context if MODE == "tls" else None
    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0, ssl=tls)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


MODE = sys.argv[1]
asyncio.run(main())
