"""The SDK's compliance monitor: in-process, over the same evidence as the portal's pages. Needs Django."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from fdrouter.errors import DependencyUnavailable, InvalidParameter, PolicyDenied

if TYPE_CHECKING:
    from accounts.principals import Principal
    from compliance.period import Period

P = ParamSpec("P")
R = TypeVar("R")
FORMATS = {"json": "application/json", "csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
PERIODS = ("daily", "weekly", "monthly", "quarterly")
PDF_SECONDS = 120.0
#: What a tracked call needs by default: the log that it is recorded in cannot be changed.
LOG_GUARDED = ("onc-d2-unchangeable",)


@dataclass(frozen=True, slots=True)
class ComplianceReport:
    """A report as bytes. ``facts`` are the figures it shows (for a PDF those that are attached to it)."""

    content: bytes
    media_type: str
    facts: dict[str, Any]

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Writes the content to a file and returns its path."""
        file = Path(path)
        file.write_bytes(self.content)
        return file


class ComplianceMonitor:
    """Controls and reports for programs that run inside the platform.

    ``user`` names the officer or auditor on whose behalf evidence is read: a report never shows more than they may
    see. It may be left out where the network has exactly one privacy officer.

    Raises:
        InvalidParameter: not inside Django with the platform's apps (there is no log to watch then), or no such user,
            or one without the portal.
    """

    def __init__(self, user: str | None = None) -> None:
        if not _inside_django():
            raise InvalidParameter(
                "A compliance monitor works on the platform's own log and ledger. Use it in a process with the"
                " platform's Django settings; there is nothing to watch in this one.",
                field="user",
            )
        self._user_id = _officer(user)

    # --- tracking -------------------------------------------------------------------------------------------------
    @overload
    def track(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def track(
        self, function: None = None, /, *, requires: Sequence[str] = LOG_GUARDED
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def track(self, function: Callable[P, R] | None = None, /, *, requires: Sequence[str] = LOG_GUARDED) -> Any:
        """Makes every call of a function evidence, and lets it run only while the controls of ``requires`` hold.

        Before the call its event is committed; afterwards its end is, with the seconds it took and, if it failed, the
        name of the error. Arguments and results are never recorded. It checks the platform's controls, not what the
        function does: nothing here makes a function comply with a law. Functions and coroutine functions.

        Raises (when the function is called):
            PolicyDenied: a required control is not met and no exception excuses it; the function did not run.
        Raises (here):
            InvalidParameter: a control that does not exist.
        """
        _known(requires)

        def decorate(tracked: Callable[P, Any]) -> Callable[P, Any]:
            name = f"{tracked.__module__}.{tracked.__qualname__}"
            if inspect.iscoroutinefunction(tracked):
                return self._asynchronous(tracked, name, tuple(requires))

            @functools.wraps(tracked)
            def call(*args: P.args, **kwargs: P.kwargs) -> Any:
                self._begin(name, tuple(requires))
                began = time.monotonic()
                try:
                    result = tracked(*args, **kwargs)
                except BaseException as error:
                    self._end(name, began, error)
                    raise
                self._end(name, began, None)
                return result

            return call

        return decorate if function is None else decorate(function)

    def _asynchronous(self, tracked: Callable[P, Any], name: str, requires: tuple[str, ...]) -> Callable[P, Any]:
        from asgiref.sync import sync_to_async

        @functools.wraps(tracked)
        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            await sync_to_async(self._begin)(name, requires)
            began = time.monotonic()
            try:
                result = await tracked(*args, **kwargs)
            except BaseException as error:
                await sync_to_async(self._end)(name, began, error)
                raise
            await sync_to_async(self._end)(name, began, None)
            return result

        return call

    def _principal(self) -> Principal:
        from accounts import principals

        return principals.for_user(self._user_id)

    def _begin(self, name: str, requires: tuple[str, ...]) -> None:
        from compliance import period
        from compliance.controls import matrix

        who = self._principal()
        for control in requires:
            row = matrix.one(who, period.today(), control)
            if row.status == "not_met":
                self._record(who, name, "refused", {"control": control})
                raise PolicyDenied(f"{row.control.citation} is not met: {row.evidence.sentence}", policies=[control])
        self._record(who, name, "begun", {"requires": list(requires)})

    def _end(self, name: str, began: float, error: BaseException | None) -> None:
        details: dict[str, Any] = {"seconds": round(time.monotonic() - began, 3)}
        if error is not None:
            details["error"] = type(error).__name__
        self._record(self._principal(), name, "ok" if error is None else "failed", details)

    def _record(self, who: Principal, name: str, outcome: str, details: dict[str, Any]) -> None:
        from django.db import transaction

        from fdrouter import evidence

        with transaction.atomic():
            evidence.record(
                evidence.Event(
                    kind="monitor.call",
                    outcome=outcome,
                    actor_id=who.user_id,
                    hospital=who.hospital,
                    details={"function": name[:200], **details},
                )
            )

    # --- reports --------------------------------------------------------------------------------------------------
    def generate_report(
        self,
        period: str | tuple[date, date] = "monthly",
        include_privacy_metrics: bool = True,
        format: str = "json",  # noqa: A002  (the name of the quick start)
    ) -> ComplianceReport:
        """Every control with its evidence and, if wanted, the privacy figures; making it is an event.

        ``period``: ``daily``, ``weekly``, ``monthly``, ``quarterly`` (the present one, up to today), or first and last
        day. ``format``: ``json``, ``csv`` (the controls alone) or ``pdf``, which is the portal's report: it is made and
        kept as if the person had asked for it there, and always has the privacy figures.

        Raises:
            InvalidParameter: another period or format, or a combination that would leave out what was asked for.
            PolicyDenied: only officers ask for a PDF. DependencyUnavailable: its making failed.
        """
        covered = _covered(period)
        if format not in FORMATS:
            raise InvalidParameter("format must be json, csv or pdf.", field="format")
        if format == "pdf":
            if not include_privacy_metrics:
                raise InvalidParameter(
                    "The PDF always has the privacy figures. Take json or csv to leave them out.",
                    field="include_privacy_metrics",
                )
            return _pdf(self._principal(), covered)
        if format == "csv" and include_privacy_metrics:
            raise InvalidParameter(
                "A CSV has one table, the controls. Take json, or say include_privacy_metrics=False.", field="format"
            )
        from compliance.controls import files

        facts = _facts(self._principal(), covered, privacy=include_privacy_metrics, form=format)
        if format == "csv":
            content = files.as_csv(facts["controls"]).encode()
        else:
            content = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, default=str).encode()
        return ComplianceReport(content, FORMATS[format], facts)


def _inside_django() -> bool:
    if "django" not in sys.modules:
        return False
    from django.apps import apps
    from django.conf import settings

    return bool(settings.configured) and apps.ready and apps.is_installed("compliance")


def _officer(user: str | None) -> int:
    from accounts.models import Membership, Role

    posts = Membership.objects.filter(active=True, user__is_active=True)
    if user is not None:
        found = list(posts.filter(user__username=user, role__in=[Role.PRIVACY_OFFICER, Role.AUDITOR])[:2])
        if not found:
            raise InvalidParameter("There is no officer or auditor of this name.", field="user")
    else:
        found = list(posts.filter(role=Role.PRIVACY_OFFICER, hospital=None)[:2])
        if len(found) != 1:
            raise InvalidParameter("Name the officer or auditor on whose behalf evidence is read.", field="user")
    return found[0].user_id


def _known(requires: Sequence[str]) -> None:
    from compliance.controls.library import libraries

    known = {control.id for library in libraries() for control in library.controls}
    if isinstance(requires, str) or (unknown := [name for name in requires if name not in known]):
        named = requires if isinstance(requires, str) else unknown[0]
        raise InvalidParameter(f"requires must list controls; {named!r} is none.", field="requires")


def _covered(asked: str | tuple[date, date]) -> Period:
    from django.utils import timezone

    from compliance import period

    today = timezone.localdate()
    if isinstance(asked, str):
        if asked not in PERIODS:
            raise InvalidParameter(f"period must be one of {', '.join(PERIODS)}, or two dates.", field="period")
        return period.whole(asked, today)
    try:
        start, end = asked
        wrong = not start <= end or start > today
    except (TypeError, ValueError):
        raise InvalidParameter(f"period must be one of {', '.join(PERIODS)}, or two dates.", field="period") from None
    if wrong:
        raise InvalidParameter("The period must begin before it ends, and have begun.", field="period")
    return period.Period(start, end)


def _facts(who: Principal, covered: Period, *, privacy: bool, form: str) -> dict[str, Any]:
    from dataclasses import asdict

    from django.utils import timezone

    from compliance import blocks, budgets
    from compliance.controls import matrix
    from compliance.controls.matrix import MatrixFilter

    rows = matrix.export(who, covered, MatrixFilter(), form)
    facts: dict[str, Any] = {
        "period": {"start": covered.start.isoformat(), "end": covered.end.isoformat()},
        "scope": who.hospital or "network",
        "made_at": timezone.now().isoformat(timespec="seconds"),
        "on_behalf_of": who.username,
        "counts": dict(Counter(row["status"] for row in rows)),
        "controls": rows,
    }
    if privacy:
        facts["privacy"] = {
            # A block's lifetime figures stand beside what the period's departments spent of their daily limits.
            "blocks": [asdict(block) for block in blocks.reported(who)],
            "departments": [asdict(row) for row in budgets.departments(who, covered)],
        }
    return facts


def _pdf(who: Principal, covered: Period) -> ComplianceReport:
    from compliance import pdf, reports, signing
    from compliance.models import Report, ReportState

    report, _ = reports.request(who, covered)
    if (mine := reports.claim(report.pk)) is not None:  # otherwise a worker was faster
        try:
            reports.render(mine, pdf.render, signing.sign)
        except reports.Superseded:
            pass  # another attempt goes on with the same facts
    deadline = time.monotonic() + PDF_SECONDS
    while True:
        state = Report.objects.filter(pk=report.pk).values_list("state", flat=True).get()
        if state == ReportState.DONE:
            made = reports.download(who, report.pk)
            return ComplianceReport(bytes(made.pdf or b""), FORMATS["pdf"], dict(made.facts or {}))
        if state == ReportState.FAILED or time.monotonic() > deadline:
            raise DependencyUnavailable("The report was not made; the portal's list of reports says why.")
        time.sleep(0.5)
