"""Headers that protect pages of the gateway in a browser. Each page and each file of a page has them.

Pages have no inline script and no inline style, so `POLICY` allows neither. All answers have
`X-Content-Type-Options: nosniff`, which the server adds.
"""

from __future__ import annotations

from starlette.requests import Request

from busway.domain.loopback import is_loopback
from busway.gateway.access.origins import without_port

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy: scripts, styles, images and requests of the gateway's own origin only."""
HSTS_SECONDS = 31_536_000

_HEADERS = {
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def page_headers(request: Request, policy: str = POLICY) -> dict[str, str]:
    """Return the headers of a page, or of a file of one, with a Content-Security-Policy.

    Over HTTPS the browser is told to use nothing else for a year. Not on loopback: that would hold for all
    programs of the machine, on every port.
    """
    headers = {"Content-Security-Policy": policy, **_HEADERS}
    host = request.headers.get("Host", "")
    if request.scope["scheme"] == "https" and not is_loopback(without_port(host)):
        headers["Strict-Transport-Security"] = f"max-age={HSTS_SECONDS}"
    return headers
