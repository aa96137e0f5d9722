"""``make demo-check``: asks a running demo everything that a person could, and says which part fails.

It spends a little of the demo's privacy budget: one short cohort answer a run. Where today's allowance of everybody
who may ask is used up, that row says so and does not count as a failure.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx
import msgspec
import openai
from rich.console import Console

from fdrouter.demo import access, probes
from fdrouter.demo.access import Access, User
from fdrouter.demo.layout import COORDINATOR, Layout
from fdrouter.demo.processes import birth
from fdrouter.demo.stack import MODEL_NAME

ANSWER_SECONDS = 180.0
# Few tokens from many patients: the records still sway the text, and it costs under two units of epsilon.
COHORT = {"kind": "cohort.text", "epsilon": 2.0, "contexts": 64}
COHORT_TOKENS = 4
COHORT_QUESTION = "What side effects were seen in patients on velorapine?"
COUNT = {"kind": "cohort.count"}
COUNT_QUESTION = "How many patients on velorapine had a dry cough?"
CHOICE = {"kind": "cohort.choice", "options": ["dry cough", "rash", "nausea"]}
KEYWORDS = {"kind": "cohort.keywords"}
TOGETHER = {"kind": "cohort.choice", "options": ["dry cough", "rash", "nausea"], "across": True}
PUBLISHED = {"kind": "cohort.released"}
COHORT_ROLES = ("resident", "attending", "pharmacist", "researcher")
SPENT = ("quota_spent", "block_exhausted")


class CheckFailed(Exception):
    """A check found what it should not have; the message says what."""


@dataclass(frozen=True, slots=True)
class Check:
    """``action`` returns a short remark or raises."""

    part: str
    title: str
    action: Callable[[], str]


class Checks:
    """The checks of one demo, in an order in which a broken part fails before what depends on it."""

    def __init__(self, layout: Layout, known: Access) -> None:
        self._layout = layout
        self._access = known

    def all(self) -> Iterator[Check]:
        yield Check("processes", "every process is alive", self._processes)
        yield Check("coordinator", "live", self._live)
        for node in self._access.nodes:
            yield Check(f"node {node.id}", "healthy over mutual TLS, engine behind it", partial(self._node, node.id))
            yield Check(f"node {node.id}", "refuses a caller without a certificate", partial(self._closed, node.id))
        yield Check("coordinator", "ready: database, Redis, nodes", self._ready)
        yield Check("API", "refuses a request without a token", self._no_token)
        yield Check("API", "lists the model", self._models)
        yield Check("general", "answer in one piece", lambda: self._ask(stream=False))
        yield Check("general", "streamed answer", lambda: self._ask(stream=True))
        yield Check("chart", "answer in one piece", lambda: self._chart(stream=False))
        yield Check("chart", "streamed answer", lambda: self._chart(stream=True))
        yield Check("cohort.count", "a number with its error", partial(self._paid, COUNT_QUESTION, COUNT))
        yield Check("cohort.choice", "votes between named answers", partial(self._paid, COHORT_QUESTION, CHOICE))
        if len(self._access.nodes) >= 3:
            yield Check("cohort.choice", "three hospitals together", partial(self._paid, COHORT_QUESTION, TOGETHER))
        if not self._layout.small:  # small records are the tests', who publish for themselves
            yield Check(
                "cohort.released", "published figures, for nothing", partial(self._paid, COUNT_QUESTION, PUBLISHED)
            )
        yield Check(
            "cohort.keywords", "drawn words, and a sentence", partial(self._paid, COHORT_QUESTION, KEYWORDS, 24)
        )
        yield Check("cohort.text", "streamed answer", partial(self._paid, COHORT_QUESTION, COHORT, COHORT_TOKENS))
        yield Check("pages", "a clinician signs in and opens Ask", lambda: self._page("attending", "/"))
        yield Check("pages", "a privacy officer opens the portal", lambda: self._page("privacy_officer", "/portal/"))
        yield Check("pages", "the portal is closed to a clinician", self._portal_closed)

    # --- parts -------------------------------------------------------------------------------------------------

    def _processes(self) -> str:
        try:
            parts = json.loads(self._layout.ledger.read_text(encoding="utf-8"))["parts"]
        except (OSError, ValueError, KeyError):
            raise CheckFailed("no supervisor is running: start it with make demo") from None
        dead = [part["name"] for part in parts if birth(part["pid"]) != part["born"]]
        if dead:
            raise CheckFailed(f"not running: {', '.join(dead)}")
        return f"{len(parts)} running"

    def _get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self._access.base_url}{path}", timeout=10.0, **options)

    def _live(self) -> str:
        return _expect(self._get("/health"), HTTPStatus.OK)

    def _ready(self) -> str:
        answer = self._get("/ready")
        states = answer.json().get("checks", {})
        if answer.status_code != HTTPStatus.OK:
            raise CheckFailed(", ".join(f"{name}: {state}" for name, state in states.items() if state != "ok"))
        return ", ".join(states)

    def _url(self, node: str) -> str:
        return next(found.url for found in self._access.nodes if found.id == node)

    def _node(self, node: str) -> str:
        context = probes.client_context(self._layout.identity(COORDINATOR))
        answer = httpx.get(f"{self._url(node)}/node/health", verify=context, timeout=10.0)
        _expect(answer, HTTPStatus.OK)
        document = answer.json()
        if document.get("engine") != "ok":
            raise CheckFailed(f"the engine behind it is {document.get('engine')}")
        return f"{document.get('patients_band')} patients"

    def _closed(self, node: str) -> str:
        context = probes.server_only_context(self._layout.identity(COORDINATOR))
        try:
            httpx.get(f"{self._url(node)}/health", verify=context, timeout=10.0)
        except httpx.TransportError as error:
            return type(error).__name__
        raise CheckFailed("it answered a caller without a certificate")

    # --- requests ----------------------------------------------------------------------------------------------

    def _no_token(self) -> str:
        return _expect(self._get("/v1/models"), HTTPStatus.UNAUTHORIZED)

    def _client(self, user: User) -> openai.OpenAI:
        base = f"{self._access.base_url}/v1"
        return openai.OpenAI(base_url=base, api_key=user.api_token, timeout=ANSWER_SECONDS, max_retries=0)

    def _models(self) -> str:
        with self._client(self._access.user("attending")) as client:
            names = [model.id for model in client.models.list()]
        if MODEL_NAME not in names:
            raise CheckFailed(f"{MODEL_NAME} is not among: {', '.join(names) or 'none'}")
        return ", ".join(names)

    def _ask(self, *, stream: bool) -> str:
        user = self._access.user("attending")
        question = f"In one sentence: what does an electrocardiogram show? ({uuid.uuid4().hex[:6]})"
        return self._answer(user, question, {"kind": "general"}, stream=stream, max_tokens=24)

    def _chart(self, *, stream: bool) -> str:
        user = self._access.user("attending")
        care = self._layout.run / f"care-{user.hospital}.json"
        patients = json.loads(care.read_text(encoding="utf-8"))["departments"].get(user.department, [])
        if not patients:
            raise CheckFailed(f"nobody is in the care of {user.department} at {user.hospital}")
        privacy = {"kind": "chart", "patient": patients[0]["reference"]}
        return self._answer(user, "Which conditions are on record?", privacy, stream=stream, max_tokens=24)

    def _paid(self, question: str, privacy: dict[str, Any], max_tokens: int = COHORT_TOKENS) -> str:
        """Asks over records, as somebody whose allowance still pays."""
        refused = ""
        for role in COHORT_ROLES:
            try:
                user = self._access.user(role)
                return self._answer(user, question, privacy, stream=True, max_tokens=max_tokens)
            except LookupError:
                continue
            except openai.APIStatusError as error:
                refused = _code(error)
                if refused not in SPENT:
                    raise
        return f"not checked: {refused.replace('_', ' ')} for everybody who may ask"

    def _answer(self, user: User, question: str, privacy: dict[str, Any], *, stream: bool, max_tokens: int) -> str:
        """Asks, and checks the answer's ``privacy`` object and receipt."""
        messages: Any = [{"role": "user", "content": question}]
        begun, first = time.monotonic(), 0.0
        with self._client(user) as client:
            options = {"model": MODEL_NAME, "messages": messages, "max_tokens": max_tokens}
            if stream:
                text, last = "", None
                for chunk in client.chat.completions.create(**options, stream=True, extra_body={"privacy": privacy}):
                    piece = chunk.choices[0].delta.content if chunk.choices else None
                    first = first or (time.monotonic() - begun if piece else 0.0)
                    text, last = text + (piece or ""), chunk
            else:
                last = client.chat.completions.create(**options, extra_body={"privacy": privacy})
                text = last.choices[0].message.content or ""
        found = (last.model_extra or {}).get("privacy") if last is not None else None
        if not isinstance(found, dict) or found.get("kind") != privacy["kind"]:
            raise CheckFailed("the answer carries no privacy object of its kind")
        if not text.strip() and privacy["kind"] != "cohort.text":
            raise CheckFailed("the answer is empty")
        self._verify(found.get("receipt"))
        cost = f", privacy cost {found['epsilon']:.2f}" if found.get("epsilon") else ""
        cost = ", from the stored release at no cost" if found.get("repeat_of") else cost
        return f"{time.monotonic() - begun:.1f} s" + (f", first token {first:.1f} s" if first else "") + cost

    def _verify(self, receipt: Any) -> None:
        """Checks digest and both signatures against the keys that the node published."""
        from federation import identity, sealing

        if not isinstance(receipt, dict):
            raise CheckFailed("the answer carries no receipt")
        body = receipt["body"]
        public = self._layout.identity(body["node"]) / "public.json"
        data = sealing.canonical(body)
        if hashlib.sha256(data).hexdigest() != receipt["digest"]:
            raise CheckFailed("the receipt's digest does not fit its body")
        keys = identity.load_public(json.loads(public.read_text(encoding="utf-8")))
        if not sealing.verify(keys, "receipt", data, receipt["signatures"]):
            raise CheckFailed("the receipt's signature does not hold")

    # --- pages -------------------------------------------------------------------------------------------------

    @contextmanager
    def _signed_in(self, role: str) -> Iterator[httpx.Client]:
        user, base = self._access.user(role), self._access.base_url
        with httpx.Client(base_url=base, timeout=10.0, follow_redirects=True) as client:
            client.get("/sign-in")
            token = client.cookies.get("csrftoken") or ""
            form = {"username": user.username, "password": user.password, "csrfmiddlewaretoken": token}
            answer = client.post("/sign-in", data=form, headers={"Referer": f"{base}/sign-in"})
            if answer.status_code >= HTTPStatus.BAD_REQUEST or "sessionid" not in client.cookies:
                raise CheckFailed(f"{user.username} cannot sign in (status {answer.status_code})")
            yield client

    def _page(self, role: str, path: str) -> str:
        with self._signed_in(role) as client:
            answer = client.get(path)
            _expect(answer, HTTPStatus.OK)
            if str(answer.url.path) != path:
                raise CheckFailed(f"{path} led to {answer.url.path}")
            return f"{len(answer.content) // 1024} KB"

    def _portal_closed(self) -> str:
        with self._signed_in("attending") as client:
            answer = client.get("/portal/")
            if answer.status_code not in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                raise CheckFailed(f"status {answer.status_code}")
            return f"status {answer.status_code}"


def _expect(answer: httpx.Response, status: HTTPStatus) -> str:
    if answer.status_code != status:
        raise CheckFailed(f"status {answer.status_code} instead of {int(status)}: {answer.text[:200]}")
    return f"status {int(status)}"


def _code(error: openai.APIStatusError) -> str:
    return str(error.code or error.type or error.status_code)


def _reason(error: Exception) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code}, {_code(error)}: {error.message[:200]}"
    if isinstance(error, httpx.TransportError | openai.APIConnectionError):
        return f"no answer ({type(error).__name__})"
    return str(error) if isinstance(error, CheckFailed | LookupError) else f"{type(error).__name__}: {error}"


def run(checks: Sequence[Check] | Iterator[Check], console: Console) -> list[Check]:
    """Runs every check, prints a row for each, and returns those that failed."""
    failed = []
    for check in checks:
        begun = time.monotonic()
        try:
            remark, mark = check.action(), "[green]ok[/]  "
        except Exception as error:  # noqa: BLE001  (whatever breaks is this check's finding)
            remark, mark = _reason(error), "[red]FAIL[/]"
            failed.append(check)
        seconds = f"{time.monotonic() - begun:5.1f} s"
        console.print(f"  {mark} {check.part:<16} {check.title:<44} [dim]{seconds}[/]  ", end="", highlight=False)
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    return failed


def check(layout: Layout, console: Console) -> int:
    """Checks the demo in ``layout``; exit status 0 when everything holds."""
    try:
        known = access.read(layout.access)
    except OSError:
        console.print("There is no demo to check: start one with make demo.")
        return 1
    except msgspec.MsgspecError as error:
        console.print(f"{layout.access} has an unexpected shape: {error}", markup=False)
        return 1
    failed = run(Checks(layout, known).all(), console)
    if failed:
        parts = ", ".join(dict.fromkeys(check.part for check in failed))
        console.print(f"\n[bold red]{len(failed)} failed[/]: {parts}. Logs: {layout.logs}", highlight=False)
        return 1
    console.print("\n[bold green]Everything works.[/]")
    return 0
