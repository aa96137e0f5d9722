"""Copies the front-end files that the pages use from ``node_modules`` to ``static/vendor``.

Standard library only: the set-up runs it before anything is installed.

Layout of ``static/vendor``: ``tabler.min.css``, ``tabler.min.js``, ``htmx.min.js``, ``htmx-ws.js``,
``chart.umd.min.js``, ``inter.css`` with ``fonts/*.woff2``, ``icons/NAME.svg`` for every name in ``icons.txt``, and
``licenses/PACKAGE.txt``.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

FILES = {
    "@tabler/core/dist/css/tabler.min.css": "tabler.min.css",
    "@tabler/core/dist/js/tabler.min.js": "tabler.min.js",
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/dist/ext/ws.js": "htmx-ws.js",
    "chart.js/dist/chart.umd.min.js": "chart.umd.min.js",
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "fonts/inter-latin-wght-normal.woff2",
    "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "fonts/inter-latin-ext-wght-normal.woff2",
    "@tabler/icons/LICENSE": "licenses/tabler-icons.txt",
    "htmx.org/LICENSE": "licenses/htmx.txt",
    "chart.js/LICENSE.md": "licenses/chart.js.txt",
    "@fontsource-variable/inter/LICENSE": "licenses/inter.txt",
}
ICONS = Path(__file__).with_name("icons.txt")
STAMP = ".stamp"

INTER_CSS = """\
@font-face {
  font-family: "Inter Variable";
  font-style: normal;
  font-weight: 100 900;
  font-display: swap;
  src: url("fonts/inter-latin-ext-wght-normal.woff2") format("woff2");
  unicode-range: U+0100-02BA, U+02BD-02C5, U+02C7-02CC, U+02CE-02D7, U+02DD-02FF, U+0304, U+0308, U+0329,
    U+1D00-1DBF, U+1E00-1E9F, U+1EF2-1EFF, U+2020, U+20A0-20AB, U+20AD-20C0, U+2113, U+2C60-2C7F, U+A720-A7FF;
}
@font-face {
  font-family: "Inter Variable";
  font-style: normal;
  font-weight: 100 900;
  font-display: swap;
  src: url("fonts/inter-latin-wght-normal.woff2") format("woff2");
  unicode-range: U+0000-00FF, U+0131, U+0152-0153, U+02BB-02BC, U+02C6, U+02DA, U+02DC, U+0304, U+0308, U+0329,
    U+2000-206F, U+20AC, U+2122, U+2191, U+2193, U+2212, U+2215, U+FEFF, U+FFFD;
}
"""

# The maps are not copied, and Django's hashed storage refuses a reference to a file that is not there.
_SOURCE_MAP = re.compile(rb"(//# sourceMappingURL=\S+|/\*# sourceMappingURL=[^*]+\*/)\s*$")


def fingerprint(root: Path) -> str:
    """Changes when another version, file or icon is wanted."""
    digest = hashlib.sha256()
    for file in (root / "package-lock.json", Path(__file__), ICONS):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def current(root: Path) -> bool:
    """Whether ``static/vendor`` already holds what this version wants."""
    stamp = root / "static" / "vendor" / STAMP
    return stamp.is_file() and stamp.read_text() == fingerprint(root)


def copy(root: Path) -> int:
    """Fills ``static/vendor`` from ``node_modules`` and returns the number of files.

    Raises:
        FileNotFoundError: a package lacks a listed file; the message names it.
    """
    modules, vendor = root / "node_modules", root / "static" / "vendor"
    shutil.rmtree(vendor, ignore_errors=True)
    wanted = {modules / source: vendor / target for source, target in FILES.items()}
    for name in ICONS.read_text().split():
        icon = f"{name}.svg"
        wanted[modules / "@tabler/icons/icons/outline" / icon] = vendor / "icons" / icon
    for source, target in wanted.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        if source.suffix in (".css", ".js"):
            content = _SOURCE_MAP.sub(b"", content)
        target.write_bytes(content)
    (vendor / "inter.css").write_text(INTER_CSS)
    (vendor / STAMP).write_text(fingerprint(root))
    return len(wanted) + 1
