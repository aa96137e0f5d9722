"""The Ask page in Chromium: the choice moves with the words, its cost is shown before sending, refusals offer steps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from federation.models import Node
from privacy.models import Scope, Unit
from tests.accounts.people import hospital
from tests.federation import rows
from tests.federation.api.stack import Person, Stack

pytestmark = pytest.mark.browser
COUNTING, NAMING = "How many patients had a cough?", "Which side effects were noted?"


@pytest.fixture
def records(stack: Stack) -> Iterator[Node]:
    """A hospital with records that is up as far as its row says; no process is behind it."""
    at = hospital("hillcrest", "Hillcrest")
    Node.objects.filter(pk="hillcrest").delete()
    yield rows.node(at)
    Node.objects.filter(pk="hillcrest").update(active=False)


@pytest.fixture
def network(records: Node) -> Iterator[None]:
    """Two more such hospitals: three could answer together."""
    others = ("alder", "birch")
    Node.objects.filter(pk__in=others).delete()
    for name in others:
        rows.node(hospital(name, name.title()))
    yield
    Node.objects.filter(pk__in=others).update(active=False)


@pytest.fixture
def page(stack: Stack, ada: Person, records: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page of a signed-in clinician, at the tab for questions over records."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no Chromium")
    name, value = stack.cookie(ada.user).split("=")
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright runs an event loop in this thread
    with stack.pages() as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        context.add_cookies([{"name": name, "value": value, "url": url}])
        opened = context.new_page()
        opened.set_default_timeout(10_000)
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        opened.goto(url)
        opened.locator("label[for=kind-cohort-text]").click()
        yield opened
        browser.close()
    assert faults == []


def test_the_choice_follows_the_words_and_can_be_overridden(page: Page) -> None:
    quote, send = page.locator("#quote"), page.locator("#send")
    expect(quote).to_contain_text("depends on the question")
    expect(send).to_be_disabled()
    page.fill("#prompt", COUNTING)
    expect(send).to_be_disabled()  # until the cost of these words is there
    expect(quote.locator("[data-answering='cohort.count']")).to_contain_text("Privacy cost 0.3")
    expect(quote).to_contain_text("asks how many")
    expect(send).to_be_enabled()
    expect(page.locator("#epsilon-cohort-count")).to_be_visible()
    page.fill("#prompt", NAMING)
    expect(send).to_be_disabled()
    expect(quote.locator("[data-answering='cohort.keywords']")).to_contain_text("Privacy cost 1")
    expect(page.locator("#epsilon-cohort-count")).to_be_hidden()
    page.locator("label[for=form-cohort-text]").click()
    expect(quote.locator("[data-answering='cohort.text']")).to_contain_text("Privacy cost 3")
    expect(quote.locator(".quote-chosen")).to_have_count(0)
    page.locator("label[for=form-cohort]").click()
    page.locator("[data-options] summary").click()
    page.fill("#options", "dry cough\nrash")
    expect(quote.locator("[data-answering='cohort.choice']")).to_contain_text("Privacy cost 1")


def test_what_is_published_comes_first_and_its_cost_is_none(
    records: Node, page: Page, stack: Stack, ada: Person
) -> None:
    quote, send = page.locator("#quote"), page.locator("#send")
    expect(page.locator("label[for=form-cohort-released]")).to_have_count(0)
    records.status["releases"] = [{"kind": "cards", "words": ["velorapine"]}]
    records.save()
    page.reload()
    page.locator("label[for=kind-cohort-text]").click()
    page.fill("#prompt", "How many patients take velorapine?")
    expect(quote.locator("[data-answering='cohort.released']")).to_contain_text("No privacy cost")
    expect(quote).to_contain_text("Hillcrest has published figures about velorapine")
    page.locator("label[for=form-cohort-count]").click()
    expect(quote).to_contain_text("Privacy cost 0.3")
    page.locator("label[for=form-cohort-released]").click()
    expect(quote).to_contain_text("No privacy cost")
    expect(send).to_be_enabled()
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("[data-trouble-title]")).to_contain_text("No hospital can answer")
    row = stack.ended(ada)
    assert (row.kind, row.epsilon_micro) == ("cohort.released", 0)


def test_what_is_sent_is_what_was_shown(page: Page, stack: Stack, ada: Person) -> None:
    page.fill("#prompt", COUNTING)
    expect(page.locator("#send")).to_be_enabled()
    page.fill("#epsilon-cohort-count", "0.4")
    page.locator("#epsilon-cohort-count").blur()
    expect(page.locator("#quote")).to_contain_text("Privacy cost 0.4")
    page.keyboard.press("Control+Enter")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("[data-trouble-title]")).to_contain_text("No hospital can answer")
    expect(page.locator("[data-trouble-charge]")).to_contain_text("No privacy cost was charged")
    row = stack.ended(ada)
    assert (row.kind, row.epsilon_micro) == ("cohort.count", 400_000)
    assert ada.used(Unit.MICRO_EPSILON) == 0


@pytest.mark.parametrize("sending", ["Control+Enter", "click"])
def test_a_cost_that_was_not_shown_is_not_sent(page: Page, ada: Person, sending: str) -> None:
    """Whatever changes what is asked locks sending until its own quote stands there."""
    page.fill("#prompt", COUNTING)
    page.locator("label[for=form-cohort-count]").click()
    expect(page.locator("#quote")).to_contain_text("Privacy cost 0.3")
    page.locator("#epsilon-cohort-count").fill("0.9")
    assert page.locator("#send").is_disabled()
    if sending == "click":
        page.locator("#send").click(force=True)
    else:
        page.locator("#epsilon-cohort-count").press(sending)
    expect(page.locator("#quote")).to_contain_text("Privacy cost 0.9")  # without leaving the field
    expect(page.locator("#send")).to_be_enabled()
    expect(page.locator("#answer")).to_be_hidden()
    for nothing in ("", "0"):
        page.locator("#epsilon-cohort-count").fill(nothing)
        expect(page.locator("#quote [data-refused='invalid_parameter']")).to_be_visible()
        page.locator("#epsilon-cohort-count").press("Control+Enter")
        expect(page.locator("#answer")).to_be_hidden()


def test_what_was_written_is_there_again_after_a_reload(page: Page) -> None:
    page.fill("#prompt", NAMING)
    page.locator("label[for=form-cohort-choice]").click()
    page.fill("#options", "dry cough\nrash")
    page.fill("#threshold", "40")
    page.reload()
    expect(page.locator("#form-cohort-choice")).to_be_checked()
    expect(page.locator("#options")).to_have_value("dry cough\nrash")
    expect(page.locator("#threshold")).to_have_value("40")
    expect(page.locator("#quote")).to_contain_text("only if about 40 records agree")


def test_a_refusal_leads_to_what_can_be_paid(page: Page, ada: Person) -> None:
    quote = page.locator("#quote")
    Scope.objects.filter(pk=ada.scopes.user_epsilon).update(used=9_500_000)
    page.fill("#prompt", COUNTING)
    page.locator("label[for=form-cohort-text]").click()
    page.fill("#cost-custom", "3")
    page.locator("#cost-custom").blur()
    expect(quote.locator("[data-refused='quota_spent']")).to_be_visible()
    expect(page.locator("#send")).to_be_disabled()
    quote.get_by_text("Answer with a number for 0.3").click()
    expect(page.locator("#form-cohort-count")).to_be_checked()
    expect(page.locator("#epsilon-cohort-count")).to_have_value("0.3")
    expect(quote).to_contain_text("Privacy cost 0.3")
    expect(page.locator("#send")).to_be_enabled()
    expect(page.locator("#prompt")).to_have_value(COUNTING)


def test_hospitals_are_asked_together_where_they_can_be(network: None, page: Page, stack: Stack, ada: Person) -> None:
    quote, box = page.locator("#quote"), page.locator("label[for=across]")
    expect(box).to_be_hidden()  # no question yet, so nothing is chosen
    page.fill("#prompt", NAMING)
    expect(quote.locator("[data-answering='cohort.keywords']")).to_be_visible()
    expect(box).to_be_hidden()
    page.fill("#prompt", COUNTING)
    expect(box).to_be_visible()
    box.click()
    expect(quote).to_contain_text("Alder, Birch, Hillcrest answer together")
    expect(page.locator("[data-one]")).to_be_hidden()
    page.fill("#prompt", NAMING)
    expect(quote.locator("[data-answering='cohort.keywords']")).not_to_contain_text("answer together")
    page.fill("#prompt", COUNTING)
    expect(quote).to_contain_text("answer together")
    expect(page.locator("#send")).to_be_enabled()
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("[data-trouble-title]")).to_contain_text("No hospital can answer")
    row = stack.ended(ada)
    assert (row.parameters["mechanism"], row.hospitals) == ("count_across", ["alder", "birch", "hillcrest"])


def test_too_few_chosen_hospitals_are_told_so(network: None, page: Page) -> None:
    page.fill("#prompt", COUNTING)
    page.locator("label[for=across]").click()
    page.locator("label[for=hospital-alder]").click()
    expect(page.locator("#quote")).to_contain_text("At least three hospitals must answer together")
    expect(page.locator("#send")).to_be_disabled()


def test_how_many_records_must_agree_is_sent_with_a_choice(
    network: None, page: Page, stack: Stack, ada: Person
) -> None:
    quote = page.locator("#quote")
    page.fill("#prompt", NAMING)
    page.locator("label[for=form-cohort-choice]").click()
    page.fill("#options", "dry cough\nrash")
    page.fill("#threshold", "40")
    page.locator("#threshold").blur()
    expect(quote).to_contain_text("only if about 40 records agree")
    page.locator("label[for=across]").click()
    expect(page.locator("#threshold")).to_be_hidden()
    expect(quote).not_to_contain_text("records agree")
    page.locator("label[for=across]").click()
    expect(quote).to_contain_text("only if about 40 records agree")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("[data-trouble-title]")).to_contain_text("No hospital can answer")
    row = stack.ended(ada)
    assert (row.parameters["mechanism"], row.parameters["threshold"]) == ("choice_confident", 40)
