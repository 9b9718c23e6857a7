"""The live page: one HTML document with everything in it, and the headers that hold it to that.

The document makes no request but to its own server; the policy sent with it names the hashes of its one
script and one style, so that nothing injected into it could run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def page_html() -> str:
    return files(__package__).joinpath("page.html").read_text(encoding="utf-8")


@cache
def page_headers() -> dict[str, str]:
    html = page_html()
    policy = (
        f"default-src 'none'; script-src {_hashes(html, 'script')}; style-src {_hashes(html, 'style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _hashes(html: str, tag: str) -> str:
    """The CSP sources that allow exactly the inline elements of the document."""
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
