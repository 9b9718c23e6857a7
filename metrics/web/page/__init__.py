"""The live page: one HTML document with everything in it, and the headers that hold it to that.

The document is put together of the markup, the styles and the scripts that lie here, and of uPlot, which draws the
charts and lies in `uplot` as its package has it, with its licence. It makes no request but to its own server; the
policy sent with it names the hashes of its scripts and styles, so that nothing injected into it could run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

STYLES = ("uplot/uPlot.min.css", "page.css")
SCRIPTS = ("uplot/uPlot.iife.min.js", "figures.js", "charts.js", "tables.js", "tabs.js", "page.js")
LICENCE = "uplot/LICENSE"


@cache
def page_html() -> str:
    styles = "\n".join(f"<style>{_text(name)}</style>" for name in STYLES)
    scripts = "\n".join(f"<script>{_text(name)}</script>" for name in SCRIPTS)
    notice = f"<!-- uPlot, which is part of this page:\n{_text(LICENCE)}-->"
    parts = {"<!-- styles -->": styles, "<!-- scripts -->": f"{notice}\n{scripts}"}
    html = _text("page.html")
    for mark, part in parts.items():
        html = html.replace(mark, part)
    return html


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


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
