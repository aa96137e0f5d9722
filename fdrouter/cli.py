"""The command ``fdrouter``: ask a router from a terminal. It needs no settings and no database."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fdrouter import __version__
from fdrouter.sdk import PrivacyBudgetExceeded, PrivateInferenceClient, Response, RouterError
from fdrouter.sdk.client import DEFAULT_ENDPOINT

FAILED, USAGE, OVER_BUDGET, INTERRUPTED = 1, 2, 3, 130
NODE_COMMANDS = """\
A node runs at the hospital, with FDROUTER_ROLE=node and its own database (docs/settings.md lists its variables).
Its commands, in the order in which a new node needs them:

  python manage.py migrate                              make the node's tables
  python manage.py blocks open --epsilon 10 --delta 1e-5
                                                        open the block that pays for answers; it is never refilled
  python manage.py ingest_records --data-path FOLDER    take in FHIR R4 Bulk Data (NDJSON); again for what is new
  python manage.py list_patients_in_care                tell the coordinator who is in whose care (JSON)
  python manage.py release plan cards --by NAME         plan what is published once and answers without end; "approve",
                                                        by somebody else, and "make" follow
  uvicorn federation.node.asgi:application --port 8443 --ssl-keyfile key.pem --ssl-certfile cert.pem \\
          --ssl-ca-certs ca.pem --ssl-cert-reqs 2       serve, over mutual TLS only

Each prints its own options with --help.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="fdrouter", description="Private questions to a network of hospitals.")
    commands = main_parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("ask", help="ask a question; the token comes from FDROUTER_TOKEN or FDROUTER_TOKEN_FILE")
    ask.add_argument("question", help="the question, or - to read it from the standard input")
    ask.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="the router (%(default)s)")
    kinds = (
        "general (the default), chart, cohort for the cheapest way over records that can answer, or one of these ways"
    )
    kinds += ": cohort.count, cohort.choice, cohort.keywords, cohort.text, cohort.released"
    ask.add_argument("--kind", default="general", help=kinds)
    ask.add_argument("--epsilon", type=float, help="the privacy cost to spend; default: the router's usual one")
    ask.add_argument("--max-epsilon", type=float, help="refuse to spend more than this")
    ask.add_argument("--hospital", action="append", default=[], help="ask this hospital only; may be repeated")
    ask.add_argument("--option", action="append", default=[], help="an answer for cohort.choice; give two or more")
    ask.add_argument("--picks", type=int, help="how many words cohort.keywords draws")
    ask.add_argument("--threshold", type=int, help="answer cohort.choice only if about so many records agree")
    ask.add_argument(
        "--across", action="store_true", help="several hospitals answer a count, a choice or a text together"
    )
    ask.add_argument("--patient", help="the patient's reference, for the kind chart")
    ask.add_argument("--purpose", help="purpose of use, such as TREAT or HRESCH; default: the usual one of your post")
    ask.add_argument("--model", help="default: the model that most nodes serve")
    ask.add_argument("--max-tokens", type=int, help="the longest answer")
    ask.add_argument("--json", action="store_true", help="print the answer with cost and receipt as JSON, not streamed")
    ask.add_argument("--allow-plain-http", action="store_true", help="send token and question unencrypted")
    node = commands.add_parser(
        "node",
        help="how a hospital's node is run",
        description=NODE_COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    node.set_defaults(command="node")
    commands.add_parser("version", help="print the version")
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. 0: done; 1: refused or failed; 2: wrong usage; 3: the budget does not pay."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "ask":
            _ask(given)
        else:
            _say(NODE_COMMANDS.rstrip() if given.command == "node" else f"fdrouter {__version__}")
    except PrivacyBudgetExceeded as error:
        _complain(error)
        return OVER_BUDGET
    except RouterError as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        _note("\nNo longer waiting. The request goes on, and its answer will be in your history.")
        return INTERRUPTED
    return 0


def _ask(given: argparse.Namespace) -> None:
    question = sys.stdin.read() if given.question == "-" else given.question
    options: dict[str, Any] = {name: getattr(given, name) for name in ("epsilon", "patient", "purpose", "model")}
    options |= {"max_tokens": given.max_tokens, "hospitals": given.hospital}
    options |= {"options": given.option, "picks": given.picks, "threshold": given.threshold, "across": given.across}
    with PrivateInferenceClient(given.endpoint, allow_plain_http=given.allow_plain_http) as client:
        if given.json:
            response = client.query(question, given.max_epsilon, kind=given.kind, **options)
            _say(json.dumps(asdict(response), indent=2, ensure_ascii=False))
            return
        stream = client.query(question, given.max_epsilon, kind=given.kind, stream=True, **options)
        for text in stream:
            sys.stdout.write(text)
            sys.stdout.flush()
        _say("")
        if stream.response.chosen:
            _note(f"[chosen: {stream.response.chosen['why']}]")
        _note(_cost(stream.response))


def _cost(response: Response) -> str:
    """What the answer cost, in one line."""
    where = f"answered by {response.node}" if response.node else "answered"
    if response.hospitals:
        where = f"answered by {', '.join(response.hospitals)} together"
    if not response.privacy_cost:
        return f"[{response.kind}; {where}; no privacy budget spent]"
    left = ", ".join(f"{name} {value:.2f}" for name, value in asdict(response.remaining).items() if value is not None)
    spent = f"epsilon {response.privacy_cost:g} (delta {response.delta:g}, per {response.unit}) spent"
    receipt = "receipt checked" if response.receipt_verified else "no receipt checked"
    return f"[{response.kind}; {where}; {spent}; left: {left}; {receipt}]"


def _complain(error: RouterError) -> None:
    _note(f"fdrouter: {error.message}")
    if error.charged:
        _note("It stays charged: a model may have seen the records.")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
