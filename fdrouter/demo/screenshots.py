"""``make screenshots``: a picture of every page of a running demo, light and dark, wide and narrow."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from rich.console import Console

from fdrouter.demo import access
from fdrouter.demo.access import Access
from fdrouter.demo.layout import PROJECT, Layout

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]
FOLDER = PROJECT / "docs" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A browser started by root has no sandbox; the others keep it from looking for its maker's servers.
ARGUMENTS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
WIDTHS = {"": 1280, "-phone": 360}
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Shot:
    """One page as a person with ``role`` sees it; no role means signed out."""

    name: str
    path: str
    role: str = ""


SHOTS = (
    Shot("sign-in", "/sign-in"),
    Shot("ask", "/", "attending"),
    Shot("history", "/history", "attending"),
    Shot("budget", "/budget", "attending"),
    Shot("nodes", "/nodes", "node_operator"),
    Shot("portal", "/portal/", "privacy_officer"),
    Shot("ledger", "/portal/ledger", "privacy_officer"),
    Shot("requests", "/portal/requests", "privacy_officer"),
    Shot("events", "/portal/events", "privacy_officer"),
    Shot("grants", "/portal/grants", "privacy_officer"),
    Shot("reports", "/portal/reports", "privacy_officer"),
)


def browser_program() -> str | None:
    """The installed browser; none is ever downloaded."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def take(layout: Layout, console: Console) -> int:
    """Takes them all; exit status 1 when a page did not open."""
    try:
        known = access.read(layout.access)
    except (OSError, msgspec.MsgspecError):
        console.print("There is no demo to look at: start one with make demo.")
        return 1
    program = browser_program()
    if program is None:
        console.print("No browser is installed: apt-get install chromium")
        return 1
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    arguments = [*ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    failed: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        for scheme in SCHEMES:
            for suffix, width in WIDTHS.items():
                failed += _all(browser, known, scheme, suffix, width)
        browser.close()
    for line in failed:
        console.print(line, markup=False)
    console.print(f"Pictures are in {FOLDER}", highlight=False)
    return 1 if failed else 0


def _all(browser: Browser, known: Access, scheme: Scheme, suffix: str, width: int) -> list[str]:
    failed = []
    for role in dict.fromkeys(shot.role for shot in SHOTS):
        context = browser.new_context(
            base_url=known.base_url, color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        page = context.new_page()
        if role:
            _sign_in(page, known, role)
        for shot in (shot for shot in SHOTS if shot.role == role):
            answer = page.goto(shot.path, wait_until="networkidle")
            if answer is None or not answer.ok:
                failed.append(f"{shot.path} as {role or 'nobody'}: status {answer.status if answer else 'none'}")
            page.screenshot(path=_file(shot, scheme, suffix), full_page=True)
        context.close()
    return failed


def _file(shot: Shot, scheme: str, suffix: str) -> Path:
    return FOLDER / f"{shot.name}-{scheme}{suffix}.png"


def _sign_in(page: Page, known: Access, role: str) -> None:
    user = known.user(role)
    page.goto("/sign-in")
    page.fill("input[name=username]", user.username)
    page.fill("input[name=password]", user.password)
    page.press("input[name=password]", "Enter")
    page.wait_for_url(lambda url: "/sign-in" not in url)
