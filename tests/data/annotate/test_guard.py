"""What reaches the desk and what leaves it: hostile hosts and origins refused, pages and API blind, headers strict."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from data.annotate.app import GETS, POSTS, Options, create_app
from data.annotate.cli import main
from data.annotate.desk import Desk
from data.annotate.guard import MAX_BODY, Signer, host_of
from data.annotate.importing import Rules, bring
from data.annotate.pages import routes
from data.annotate.pairing import Plan
from data.annotate.serving import options_of
from data.schema import UserError
from tests.data.annotate.desk_opened import HOST, SECRET_MODELS, Visitor, completions, lines, opened


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return opened(tmp_path, completions(3))


# ------------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:8642", "", "127.0.0.1@evil",
                                  "[::1", "0.0.0.0:8642", "10.0.0.5:8642"])
def test_other_hosts_are_refused(desk: Desk, host: str) -> None:
    client = TestClient(create_app(desk, pages=routes()), base_url=HOST)
    for path in ("/", "/api/session", "/healthz", "/static/x"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == 400 and "Question" not in response.text
    assert "csrf" not in client.get("/api/session", headers={"Host": host}).text


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:1", "[::1]:8642", "LOCALHOST"])
def test_our_own_hosts_are_answered(desk: Desk, host: str) -> None:
    client = TestClient(create_app(desk), base_url=HOST)
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "file://"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"X-Desk-Token": "0" * 64}, {"X-Desk-Token": ""},
    {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Length": str(MAX_BODY + 1)}])
def test_a_page_elsewhere_cannot_post(desk: Desk, headers: dict[str, str]) -> None:
    anna = Visitor(desk, "anna")
    shown = anna.post("next")["current"]
    body = {"id": str(uuid.uuid4()), "assignment": shown["id"], "decision": {"outcome": "tie"}}
    good = {"X-Desk-Token": anna.csrf, "Origin": HOST, "Content-Type": "application/json"}
    response = anna.client.post("/api/submit", content=json.dumps(body), headers={**good, **headers})
    assert response.status_code in (403, 413) and desk.snapshot().judgments == ()
    assert anna.client.post("/api/submit", content=json.dumps(body), headers=good).status_code == 200


def test_another_session_s_token_is_refused(desk: Desk) -> None:
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    anna.csrf = bea.csrf
    assert anna.send("next").status_code == 403


def test_a_cookie_cannot_be_made_up(desk: Desk) -> None:
    Visitor(desk, "anna")
    thief = Visitor(desk)
    thief.client.cookies.set(Signer(desk.secret()).cookie, "anna." + "0" * 64)
    assert thief.client.get("/api/session").json()["annotator"] is None
    assert Signer(b"other").name("session", Signer(desk.secret()).sign("session", "anna")) is None
    assert Signer(b"same").name("invite", Signer(b"same").sign("session", "anna")) is None


def test_reading_across_sites_is_refused_and_following_a_link_is_not(desk: Desk) -> None:
    client = Visitor(desk, "anna").client
    assert client.get("/api/history", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
                      ).status_code == 403
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/healthz", headers=visit).status_code == 200
    assert client.get("/healthz", headers={**visit, "Sec-Fetch-Dest": "iframe"}).status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(desk: Desk, method: str) -> None:
    response = Visitor(desk, "anna").client.request(method, "/api/next")
    assert response.status_code == 405 and "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b'"x"',
                                  b"[" * 100_000, b'{"batch": 5}', b'{"batch": "\xed\xa0\x80"}'])
def test_a_body_that_is_no_object_is_refused(desk: Desk, body: bytes) -> None:
    anna = Visitor(desk, "anna")
    response = anna.client.post("/api/next", content=body, headers={
        "X-Desk-Token": anna.csrf, "Content-Type": "application/json"})
    assert response.status_code == 422 and response.json()["error"]["code"] == "invalid"


@pytest.mark.parametrize(("call", "body", "field"), [
    ("session", {"annotator": "anna\ud800"}, "annotator"), ("open", {"assignment": "\udfff"}, "assignment"),
    ("next", {"batch": "\ud83d"}, "batch"), ("open", {"assignment": "a\0"}, "assignment"),
    ("undo", {"id": "\ud800"}, "id")])
def test_half_a_character_in_a_name_is_refused(desk: Desk, call: str, body: dict[str, str], field: str) -> None:
    response = Visitor(desk, "anna").send(call, **body)
    assert response.status_code == 422 and response.json()["error"]["field"] == field


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "9" * 5000])
def test_odd_limits_of_the_history_are_refused(desk: Desk, limit: str) -> None:
    assert Visitor(desk, "anna").client.get(f"/api/history?limit={limit}").status_code == 422


@pytest.mark.parametrize("call", ["draft", "preferences"])
def test_a_number_beyond_every_range_is_refused_and_nothing_is_kept(desk: Desk, call: str) -> None:
    anna = Visitor(desk, "anna")
    shown = anna.post("next")["current"]["id"]
    body = f'{{"assignment": "{shown}", "{call}": {{"x": 1e999}}}}'
    response = anna.client.post(f"/api/{call}", content=body, headers={
        "X-Desk-Token": anna.csrf, "Origin": HOST, "Content-Type": "application/json"})
    assert response.status_code == 422 and "1e999" in response.json()["error"]["message"]
    assert anna.post("next")["current"]["draft"] is None and anna.get("session")["preferences"] == {}


def test_every_answer_carries_the_strict_headers(desk: Desk) -> None:
    client = Visitor(desk, "anna").client
    for response in (client.get("/api/session"), client.get("/nowhere"), client.get("/healthz", headers={"Host": "x"})):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer" and response.headers["x-frame-options"] == "DENY"


def test_without_a_session_there_is_nothing(desk: Desk) -> None:
    nobody = Visitor(desk)
    for call in POSTS.keys() - {"session", "signout"}:
        assert nobody.send(call).status_code == 401
    for call in GETS.keys() - {"session"}:
        assert nobody.client.get(f"/api/{call}").status_code == 401


@pytest.mark.parametrize("name", ["", " ", "a b", "../x", "<script>", "ä", "a" * 41, "-x", "a\n"])
def test_odd_pseudonyms_are_refused(desk: Desk, name: str) -> None:
    answer = Visitor(desk).send("session", annotator=name)
    assert answer.status_code == 422 or (name.strip() == "a" and answer.status_code == 200)


# ---------------------------------------------------------------------------------------------------- beyond loopback


def test_beyond_loopback_people_come_with_a_link(desk: Desk) -> None:
    options = options_of("192.168.1.7", [])
    assert options.personal_links and "192.168.1.7" in options.hosts
    visitor = Visitor(desk, options=options)
    assert visitor.send("session", annotator="anna").status_code == 403
    desk.sign_in("anna")
    key = Signer(desk.secret()).sign("invite", "anna")
    assert visitor.client.get("/enter?key=anna.0").status_code == 403
    assert visitor.client.get(f"/enter?key={key}").status_code == 200
    assert visitor.client.get("/api/session").json()["annotator"] == "anna"


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--db", str(tmp_path / "a.db"), f"--port={port}"]) == 2
    said = capsys.readouterr().err
    assert f"--port {port}: must be from 0 to 65535" in said and "another desk" not in said


def test_how_a_server_is_reached_is_said() -> None:
    assert options_of("127.0.0.1", []) == options_of("127.0.0.1", []) == Options(hosts=(
        "127.0.0.1", "localhost", "::1", "127.0.0.1"))
    assert options_of("0.0.0.0", ["desk.example:80"]).hosts[-1] == "desk.example"
    with pytest.raises(UserError, match="--allow-host NAME"):
        options_of("0.0.0.0", [])
    assert host_of("[::1]:80") == "::1"


# -------------------------------------------------------------------------------------------------------------- blind

PLANS = [Plan(kind="pairwise"), Plan(kind="ranking"), Plan(kind="rating"), Plan(kind="stepwise")]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kind)
def test_nothing_tells_who_wrote_an_answer(tmp_path: Path, plan: Plan) -> None:
    """Every response of a whole session, headers too: no model, candidate id, score, reference or other person."""
    desk = opened(tmp_path, completions(3, models=SECRET_MODELS), plan=plan, reveal=False, generator="secret-generator")
    Visitor(desk, "secretive-person")
    anna = Visitor(desk, "anna")
    seen: list[str] = []
    anna.client.event_hooks["response"] = [lambda response: seen.append(
        response.read().decode() + json.dumps(dict(response.headers)))]
    app = create_app(desk, pages=routes())
    current = anna.post("next")["current"]
    decisions: dict[str, dict[str, Any]] = {
        "pairwise": {"outcome": "tie"}, "ranking": {"outcome": "both_bad"},
        "rating": {"outcome": "rated", "ratings": {slot["slot"]: {"correctness": 3, "clarity": 2}
                                                   for slot in current["slots"]}},
        "stepwise": {"outcome": "stepped", "steps": [{"step": 0, "rating": 1}, {"step": 1, "rating": 1}]}}
    anna.post("draft", assignment=current["id"], draft={"x": 1})
    anna.decide(current, **decisions[plan.kind])
    anna.post("undo", id=str(uuid.uuid4()))
    for call in GETS:
        anna.get(call)
    page = TestClient(app, base_url=HOST, cookies=dict(anna.client.cookies))
    assigned = anna.post("next")["current"]["id"]
    seen += [page.get(path).text for path in ("/", f"/task/{assigned}", "/progress", "/guideline")]
    snapshot = desk.snapshot()
    secrets = [*SECRET_MODELS, "secret", "policy-", "hidden reference", "secretive-person", '"score"', "score=",
               *(row.id for row in (*snapshot.candidates, *snapshot.tasks, *snapshot.prompts))]
    text = "\n".join(seen)
    assert "Question" in text and len(seen) > 10
    assert [secret for secret in secrets if secret in text] == []
    assert set(re.findall(r"\b[0-9a-f]{16}\b", text)) <= {batch.id for batch in snapshot.batches} | {
        guideline.version for guideline in snapshot.guidelines}


def test_the_name_of_a_file_is_not_told(tmp_path: Path) -> None:
    desk = Desk.open(str(tmp_path / "a.db"))
    bring(desk, [str(lines(tmp_path / "secret-model-one.jsonl", completions(2)))], Plan(), Rules())
    anna = Visitor(desk, "anna")
    seen = json.dumps([anna.post("next"), anna.get("session"), anna.get("progress")])
    assert '"batch 1"' in seen and "secret" not in seen


def test_nobody_sees_another_s_answer(tmp_path: Path) -> None:
    desk = opened(tmp_path, completions(2), plan=Plan(overlap=2), reveal=True)
    anna, bea = Visitor(desk, "anna"), Visitor(desk, "bea")
    anna.decide(outcome="both_bad", rationale="what anna alone knows", rewrite="anna's better answer")
    seen = [json.dumps(bea.post("next")), json.dumps(bea.decide(outcome="tie"))]
    seen += [json.dumps(bea.get(call)) for call in GETS]
    assert not [text for text in seen if "anna" in text or "both_bad" in text]
    assert "what anna alone knows" in json.dumps(anna.get("history"))
