"""The clinician's and the operator's pages: owner, colleague, outsider."""

from __future__ import annotations

import gzip
import json
import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.contrib.staticfiles import finders
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.utils import timezone

from accounts.models import Role, User
from fdrouter import crypto
from fdrouter.errors import QuotaSpent
from fdrouter.problems import PageErrorMiddleware
from federation.models import Inference, Kind
from federation.templatetags import ui
from privacy.dp.confident_plans import plan_confident_choice
from privacy.dp.text_plan import plan_text
from tests.accounts.people import department, hospital, in_care, person
from tests.federation import rows

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
CLASS_ATTRIBUTE = r'\sclass="((?:\{[{%].*?[}%]\}|[^"])*)"'


def page(client: Client, user: User, path: str, expect: int = 200) -> str:
    client.force_login(user)
    response = client.get(path)
    assert response.status_code == expect, response.content[:400]
    return response.content.decode()


# --- who gets which page ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/", "/ask/side", "/history", "/budget", "/nodes", f"/history/{uuid.uuid4()}"])
def test_signed_out_people_are_led_to_sign_in_and_back(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response["Location"] == f"/sign-in?next={path}"


def test_a_part_of_a_page_gets_a_bare_401_instead_of_a_sign_in_form(client: Client) -> None:
    response = client.post("/ask/quote", {"kind": "general"}, headers={"HX-Request": "true"})
    assert (response.status_code, response.content) == (401, b"")


def test_officers_and_operators_land_on_their_own_pages(client: Client) -> None:
    for role, where in ((Role.PRIVACY_OFFICER, "/portal/"), (Role.AUDITOR, "/portal/"), (Role.NODE_OPERATOR, "/nodes")):
        client.force_login(person(role.value, role))
        response = client.get("/")
        assert (response.status_code, response["Location"]) == (302, where)


def test_navigation_shows_what_the_post_gives(client: Client) -> None:
    clinician = page(client, person("ada"), "/history")
    assert 'href="/budget"' in clinician
    assert "/portal/" not in clinician
    assert "/nodes" not in clinician
    operator = page(client, person("olga", Role.NODE_OPERATOR), "/nodes")
    assert "/budget" not in operator
    officer = page(client, person("priya", Role.PRIVACY_OFFICER), "/history")
    assert 'href="/portal/ledger"' in officer


def test_the_account_menu_leads_to_the_documentation_of_the_api(client: Client) -> None:
    for role, path in (
        (Role.ATTENDING, "/history"),
        (Role.NODE_OPERATOR, "/nodes"),
        (Role.PRIVACY_OFFICER, "/portal/"),
    ):
        html = page(client, person(role.value, role), path)
        assert '<a class="menu-item" href="/api/docs">' in html
    assert client.get("/api/docs").status_code == 200


def test_nodes_are_for_operators_and_the_rest_see_nothing(client: Client) -> None:
    rows.node(hospital())
    assert "Northfield General" in page(client, person("olga", Role.NODE_OPERATOR), "/nodes")
    for role in (Role.ATTENDING, Role.PRIVACY_OFFICER):
        assert "Northfield General" not in page(client, person(role.value, role), "/nodes", expect=404)


def test_a_page_that_is_not_yours_looks_like_one_that_does_not_exist(client: Client) -> None:
    ada = person("ada")

    def body(path: str) -> str:
        return " ".join(_without_address(page(client, ada, path, expect=404)).replace(path, "PATH").split())

    assert body("/nodes") == body("/no-such-page")


def test_a_refusal_on_a_page_of_its_own_says_what_happened_and_where_to_go(rf: RequestFactory) -> None:
    request = rf.get("/somewhere")
    request.user = AnonymousUser()
    middleware = PageErrorMiddleware(lambda _: HttpResponse())
    response = middleware.process_exception(request, QuotaSpent("Today's privacy budget of Cardiology is used up."))
    assert response is not None
    assert response.status_code == 429
    html = response.content.decode()
    for text in ("Not enough budget left today", "of Cardiology is used up", "Ask the model without records"):
        assert text in html
    assert middleware.process_exception(request, RuntimeError()) is None


# --- weight -------------------------------------------------------------------------------------------------------
FIRST_PAGE_BYTES = 100_000
"""The bar for the first page, compressed with gzip, without fonts."""


def test_the_first_page_is_light(client: Client) -> None:
    rows.node(hospital())
    html = page(client, person("ada"), "/")
    links = re.findall(r'(?:href|src)="/static/([^"]+)"', html)
    files = [Path(str(finders.find(name))).read_bytes() for name in links]
    assert len(files) > 6, "style sheets, scripts and the icon"
    assert sum(len(gzip.compress(content)) for content in (html.encode(), *files)) < FIRST_PAGE_BYTES


def test_every_class_of_the_templates_is_in_a_style_sheet() -> None:
    """The base holds only what we use of its maker's sheet: another class of that maker would do nothing."""
    own = [file for file in (ROOT / "static" / "compliance").glob("*.css") if file.name != "report.css"]
    sheets = [*(ROOT / "static" / "app").glob("*.css"), *own]
    known = {name for file in sheets for name in re.findall(r"\.([a-zA-Z][\w-]*)", file.read_text(encoding="utf-8"))}
    templates = [file for file in (ROOT / "templates").rglob("*.html") if file.name != "report.html"]
    values = (v for file in templates for v in re.findall(CLASS_ATTRIBUTE, file.read_text(encoding="utf-8")))
    used = {name for value in values for name in re.sub(r"\{[{%].*?[}%]\}", " ", value).split()}
    assert {name for name in used - known if not name.endswith("-")} == set()


# --- Ask ----------------------------------------------------------------------------------------------------------
def test_ask_offers_the_kinds_and_purposes_of_the_post(client: Client) -> None:
    rows.node(hospital())
    in_care("nf-1")
    html = page(client, person("ada"), "/")
    for text in ("Ask the model", "Ask about my patient", "Ask our records", "400–500 patients", "nf-1", "Treatment"):
        assert text in html
    nurse = page(client, person("nora", Role.NURSE), "/")
    assert "Ask our records" not in nurse
    researcher = page(client, person("rhea", Role.RESEARCHER), "/")
    assert "Ask about my patient" not in researcher
    assert "nf-1" not in researcher
    assert "Emergency treatment" not in researcher


def _costs(html: str) -> dict[str, str]:
    """What each amount of the privacy cost control is: its attributes."""
    return dict(re.findall(r'id="cost-\d" value="([^"]+)" data-quoted([^>]*)>', html))


def test_the_cost_that_is_chosen_at_first_fits_what_is_left(client: Client) -> None:
    rows.node(hospital())
    html = page(client, person("ada"), "/")
    assert _costs(html) == {"2": "", "3": " checked", "5": ""}
    researcher = person("rhea", Role.RESEARCHER, works_in=department("research"))
    html = page(client, researcher, "/")
    assert _costs(html) == {"2": " checked", "3": " disabled", "5": " disabled"}
    assert html.count("Research has 2 left today") == 2
    row = rows.request(researcher, "spent", kind=Kind.COHORT_TEXT, epsilon=1.1)
    for path in ("/", f"/?again={row.pk}"):
        html = page(client, researcher, path)
        assert "checked" not in "".join(_costs(html).values())
        assert 'value="0.90" name="epsilon" data-quoted data-custom-cost' in html


def test_when_nothing_fits_the_page_says_so_and_offers_the_kind_without_a_cost(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=9.5)
    html = page(client, ada, "/")
    assert not _costs(html)
    for text in ("No free text fits what is left", "costs 0.75; you have 0.5 left", 'data-value="general"'):
        assert text in html


def test_the_costs_come_anew_with_the_side_after_an_answer(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=6.0)
    html = page(client, ada, "/ask/side?epsilon=2")
    assert 'id="costs" hx-swap-oob="true"' in html
    assert _costs(html) == {"2": " checked", "3": "", "5": " disabled"}
    assert _costs(page(client, ada, "/ask/side?epsilon=nan"))["3"] == " checked"
    assert 'id="costs"' not in page(client, person("nora", Role.NURSE), "/ask/side")


def test_the_costs_promise_what_the_plan_holds(client: Client) -> None:
    rows.node(hospital())
    html = page(client, person("ada"), "/")
    for epsilon in (2.0, 3.0, 5.0):
        plan = plan_text(epsilon=epsilon)
        assert f"up to {ui.words(plan.max_tokens)} words</span>" in html
        assert not ui.is_faint(plan.push)
    assert "barely heard" not in html
    assert "pull" not in html


def test_ask_shows_no_patient_of_another_department(client: Client) -> None:
    in_care("nf-secret", of=department("emergency"))
    assert "nf-secret" not in page(client, person("ada"), "/")


def test_ask_never_says_epsilon_outside_the_expert_view(client: Client) -> None:
    html = page(client, person("ada"), "/")
    words = re.sub(r"<script.*?</script>|<[^>]+>", " ", html, flags=re.DOTALL).replace(ui.COST_MEANING, "")
    assert "epsilon" not in words.lower()


def test_ask_again_fills_in_ones_own_question_only(client: Client) -> None:
    ada, ben = person("ada"), person("ben")
    row = rows.request(ada, "A question to repeat")
    assert (
        "A question to repeat" in page(client, ada, f"/?again={row.pk}").split("<textarea")[1].split("</textarea>")[0]
    )
    assert "A question to repeat" not in page(client, ben, f"/?again={row.pk}")
    assert page(client, ben, "/?again=nonsense")


def _sealed(row: Inference, **content: Any) -> None:
    """The request's contents with more in them."""
    kept = json.loads(crypto.unseal("request", row.pk.bytes, bytes(row.request or b"")))
    sealed = crypto.seal("request", row.pk.bytes, json.dumps(kept | content).encode())
    Inference.objects.filter(pk=row.pk).update(request=sealed)


def test_ask_again_keeps_form_answers_and_cost_so_that_it_is_the_same_request(client: Client) -> None:
    """Another cost would make it another release, which is paid once more."""
    rows.node(hospital())
    ada = person("ada")
    row = rows.request(ada, "Which was it?", kind=Kind.COHORT_CHOICE, epsilon=0.7)
    _sealed(row, options=["dry cough", "<i>rash</i>"])
    html = page(client, ada, f"/?again={row.pk}")
    assert 'value="cohort.choice" data-quoted checked' in html
    assert ">dry cough\n&lt;i&gt;rash&lt;/i&gt;</textarea>" in html
    assert 'name="epsilon-cohort.choice" type="number"' in html
    assert re.search(r'name="epsilon-cohort.choice"[^>]* value="0.70"', html)
    assert re.search(r'name="epsilon-cohort.count"[^>]* value="0.30"', html), "the others keep their usual cost"
    assert "checked" in _costs(html)["3"]


def test_ask_again_leaves_open_what_was_left_open(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    row = rows.request(ada, "How many?", kind=Kind.COHORT_COUNT, epsilon=0.4)
    _sealed(row, chosen="The question asks how many.")
    html = page(client, ada, f"/?again={row.pk}")
    assert 'value="cohort" data-quoted checked' in html
    assert re.search(r'name="epsilon-cohort.count"[^>]* value="0.40"', html)
    detail = page(client, ada, f"/history/{row.pk}")
    assert "A number" in detail and "chosen for you: The question asks how many." in detail


def test_who_may_not_ask_records_sees_no_privacy_budget(client: Client) -> None:
    rows.node(hospital())
    nurse = person("nora", Role.NURSE)
    for path in ("/", "/ask/side", "/budget"):
        html = page(client, nurse, path)
        for words in ("Privacy left today", "Privacy, today", "More for today", "Your privacy budget"):
            assert words not in html, (path, words)
    assert "Requests, today" in page(client, nurse, "/budget")
    assert "Privacy left today" in page(client, person("ada"), "/")


def test_every_figure_of_a_cost_says_what_it_bounds_and_for_whom(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    row = rows.request(ada, "Q", kind=Kind.COHORT_TEXT, epsilon=1.0)
    for path in ("/", "/budget", f"/history/{row.pk}"):
        assert ui.COST_MEANING in page(client, ada, path), path


def test_contents_are_escaped(client: Client) -> None:
    ada = person("ada")
    row = rows.request(ada, "<script>alert(1)</script>", "<img src=x onerror=alert(1)>")
    for path in ("/", "/history", f"/history/{row.pk}", f"/?again={row.pk}", "/budget"):
        html = page(client, ada, path)
        assert "<script>alert" not in html
        assert "<img" not in html


# --- history ------------------------------------------------------------------------------------------------------
def test_history_searches_filters_and_shows_ones_own_only(client: Client) -> None:
    ada, ben = person("ada"), person("ben")
    rows.request(ada, "About velorapine?", "A dry cough.")
    rows.request(ada, "About zintoralol?", "A slow pulse.")
    html = page(client, ada, "/history?text=cough")
    assert "About velorapine?" in html
    assert "About zintoralol?" not in html
    assert "Nothing matches" in page(client, ada, "/history?text=absent")
    assert "No questions yet" in page(client, ben, "/history")


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999999", ""])
def test_history_takes_any_page_number(client: Client, number: str) -> None:
    page(client, person("ada"), f"/history?page={number}")


def test_a_request_has_its_page_for_its_owner_and_looks_absent_to_others(client: Client) -> None:
    ada, colleague = person("ada"), person("ben")
    outsider = person("eve", works_in=department(at=hospital("lakeside", "Lakeside")))
    officer = person("priya", Role.PRIVACY_OFFICER)
    node = rows.node(hospital())
    row = rows.request(
        ada, "Which effects?", "A cough.", kind=Kind.COHORT_TEXT, epsilon=3.0, node=node, receipt=rows.RECEIPT
    )
    html = page(client, ada, f"/history/{row.pk}")
    for text in ("Which effects?", "A cough.", "Northfield General", "Privacy cost 3 stays charged", "ab" * 32):
        assert text in html
    absent = f"/history/{uuid.uuid4()}"
    for path in ("", "/receipt", "/receipt.json"):
        for user in (colleague, outsider, officer):
            theirs = page(client, user, f"/history/{row.pk}{path}", expect=404)
            nobodys = page(client, user, f"{absent}{path}", expect=404)
            assert _without_address(theirs) == _without_address(nobodys)


def _without_address(html: str) -> str:
    html = re.sub(r"/history/[0-9a-f-]{36}", "/history/ID", html)
    return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"', "", html)


def test_the_receipt_can_be_kept_as_the_node_signed_it(client: Client) -> None:
    ada = person("ada")
    row = rows.request(ada, "Q", kind=Kind.COHORT_TEXT, epsilon=1.0, receipt=rows.RECEIPT)
    client.force_login(ada)
    response = client.get(f"/history/{row.pk}/receipt.json")
    assert json.loads(response.content) == rows.RECEIPT
    assert response["Content-Disposition"].startswith("attachment")
    bare = rows.request(ada, "no receipt")
    assert client.get(f"/history/{bare.pk}/receipt.json").status_code == 404
    assert "receipt-json" in client.get(f"/history/{row.pk}/receipt").content.decode()


def _part(code: str, spent: int) -> dict[str, Any]:
    block = {"cap": 10**10, "epsilon_left": 4.5}
    return {"body": {"node": code, "mechanism": {"nano_rdp_spent": spent}, "block": block}}


def test_a_receipt_over_several_lists_what_each_hospitals_block_keeps(client: Client) -> None:
    ada = person("ada")
    for code in ("alder", "birch", "cedar"):
        hospital(code, code.title())
    body: dict[str, Any] = {"node": "coordinator", "hospitals": ["alder", "birch"], "left": {"cedar": 3}}
    receipt = {"body": body, "digest": "ab" * 32, "receipts": [_part("alder", 10**8), _part("birch", 1)], "shares": []}
    row = rows.request(ada, "Q", kind=Kind.COHORT_TEXT, epsilon=1.0, receipt=receipt)
    html = page(client, ada, f"/history/{row.pk}")
    assert "Alder, Birch, Cedar</span>" in html, "in the place of the node"
    assert re.search(r"<dt>Alder</dt><dd>its block keeps 1 % of all it can ever pay; [^<]* costs 4.5</dd>", html)
    assert "<dt>Birch</dt><dd>its block keeps 0.01 %" in html, "rounded up"
    assert "<dt>Cedar</dt><dd>left after 3 tokens" in html
    assert "the router signs over their receipts" in html and "Signed by the hospital's node" not in html
    body["mechanism"] = {"repeat_of": "x"}
    row = rows.request(ada, "Q", kind=Kind.COHORT_TEXT, epsilon=1.0, receipt=receipt)
    assert page(client, ada, f"/history/{row.pk}").count("its block keeps nothing") == 2


def test_a_choice_that_was_withheld_says_so(client: Client) -> None:
    ada = person("ada")
    mechanism = {"name": "choice_confident", "withheld": True, "parameters": {"threshold": 40}}
    receipt = {"body": {"node": "northfield", "mechanism": mechanism}, "digest": "ab" * 32}
    how: dict[str, Any] = {"kind": Kind.COHORT_CHOICE, "epsilon": 1.0, "receipt": receipt, "finish_reason": "withheld"}
    row = rows.request(ada, "Q", "Fewer than about 40.", **how)
    html = page(client, ada, f"/history/{row.pk}")
    assert "Withheld.</strong> Fewer than about 40 records agree" in html
    assert "the records pay for the check alone" in html
    assert '<span class="state state-warn">Withheld</span>' in html
    assert "Fewer than about 40" not in page(client, ada, "/history?outcome=failed")
    assert f"/history/{row.pk}" in page(client, ada, "/history?outcome=withheld")
    assert "Withheld" not in page(client, ada, f"/history/{rows.request(ada, 'Q', receipt=rows.RECEIPT).pk}")


def test_ask_again_keeps_how_many_records_must_agree(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    plan = plan_confident_choice(options=2, threshold=40, epsilon=1.0)
    row = rows.request(ada, "Q", kind=Kind.COHORT_CHOICE, epsilon=1.0, parameters=plan.to_event())
    assert re.search(r'name="threshold"[^>]* value="40"', page(client, ada, f"/?again={row.pk}"))
    assert not re.search(r'name="threshold"[^>]* value=', page(client, ada, "/"))


@pytest.mark.parametrize(
    ("state", "reason", "text"),
    [
        ("failed", "node_timeout", "No answer in time"),
        ("failed", "a_code_of_tomorrow", "No answer came back"),
        ("cancelled", "", "was stopped"),
        ("queued", "", "Still under way"),
    ],
)
def test_a_request_without_an_answer_says_why(client: Client, state: str, reason: str, text: str) -> None:
    ada = person("ada")
    row = rows.request(ada, "Q", None, kind=Kind.COHORT_TEXT, epsilon=1.0, state=state, reason=reason)
    assert text in page(client, ada, f"/history/{row.pk}")


def test_a_failure_says_whether_it_was_charged(client: Client) -> None:
    ada = person("ada")
    kept = rows.request(ada, "Q", None, kind=Kind.COHORT_TEXT, epsilon=1.0, state="failed", reason="node_failed")
    assert "stays charged" in page(client, ada, f"/history/{kept.pk}")
    free = rows.request(ada, "Q", None, kind=Kind.COHORT_TEXT, epsilon=1.0, state="cancelled")
    html = page(client, ada, f"/history/{free.pk}")
    assert "No privacy cost was charged" in html
    assert "Given back" in html


# --- budget -------------------------------------------------------------------------------------------------------
def test_budget_shows_ones_own_use_of_today(client: Client) -> None:
    rows.node(hospital())
    ada, ben = person("ada"), person("ben")
    rows.request(ada, "Paid today", kind=Kind.COHORT_TEXT, epsilon=3.0)
    rows.request(ada, "Two days ago", created_at=timezone.now() - timedelta(days=2))
    mine = page(client, ada, "/budget")
    assert "<strong>7</strong> of 10 left" in mine
    assert "<strong>75</strong> % left" in mine
    assert "largest single question that still fits costs 6.5" in mine
    assert "Paid today" in mine
    assert "Two days ago" not in mine
    theirs = page(client, ben, "/budget")
    assert "<strong>10</strong> of 10 left" in theirs
    assert "Paid today" not in theirs


def test_people_without_a_budget_are_told(client: Client) -> None:
    assert "no daily budget" in page(client, person("priya", Role.PRIVACY_OFFICER), "/budget")


# --- building blocks ----------------------------------------------------------------------------------------------
def test_every_icon_of_the_templates_is_among_those_that_the_set_up_copies() -> None:
    known = set((ROOT / "fdrouter" / "demo" / "icons.txt").read_text().split())
    used = {
        name
        for file in (ROOT / "templates").rglob("*.html")
        for name in re.findall(r'{% icon "([a-z0-9-]+)"', file.read_text(encoding="utf-8"))
    }
    used |= {entry.icon for entry in (*ui.CLINICAL_PAGES, *ui.OPERATOR_PAGES, *ui.PORTAL_PAGES)}
    assert used <= known


def test_templates_hold_no_inline_style_or_script() -> None:
    guilty = [
        str(file)
        for file in (ROOT / "templates").rglob("*.html")
        if re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", file.read_text(encoding="utf-8"))
        and "/pdf/" not in str(file)
    ]
    assert not guilty


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (3.0, "3"), (0.126, "0.13"), (0.004, "<0.01"), (50000, "50\u202f000"), (0, "0")]
)
def test_amounts_are_short(value: float | None, text: str) -> None:
    assert ui.amount(value) == text


def test_figures_of_the_guarantee_are_rounded_to_the_safe_side() -> None:
    assert ui.odds(3.0) == "21"  # e^3 = 20.09
    assert ui.odds(0.1) == "1.2"
    assert ui.odds(8.0) == "3\u202f000"  # e^8 = 2981
    assert ui.one_in(1e-5) == "100\u202f000"
    assert ui.scientific(1e-5) == "1×10⁻⁵"
    assert ui.scientific(0.25) == "0.25"
