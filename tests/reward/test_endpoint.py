"""The judge's client against a real server on the loopback: what is asked, what is tried again, what is never told."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from data.schema import UserError
from reward.endpoint import MAX_BYTES, Endpoint, Pace, Settings, check_url, is_loopback
from reward.judge import Reply, Request, schema_of
from tests.reward.loopback import Answer, Script, Server, completion, next_tokens, serve

SCHEMA = schema_of(correctness=["correct", "wrong"])
GOOD = Answer(completion("fine"))


def request(text: str = "Right?", **more: Any) -> Request:
    return Request([{"role": "user", "content": text}], **({"schema": SCHEMA} | more))


def endpoint(server: Server, waits: list[float] | None = None, **changes: Any) -> Endpoint:
    """A client that notes its waits instead of waiting."""
    sleep = (lambda seconds: None) if waits is None else waits.append
    return Endpoint(Settings(**({"url": server.url, "model": "m-1", "timeout": 5.0} | changes)), sleep=sleep)


def asked(client: Endpoint, *requests: Request) -> list[Reply]:
    try:
        found = dict(client(requests))
    finally:
        client.close()
    return [found[place] for place in range(len(requests))]


def planned(*answers: Answer) -> Script:
    """These answers in turn, the last one for ever."""
    return lambda number, body: answers[min(number, len(answers) - 1)]


def test_it_sends_what_the_api_asks_for_and_counts_tokens() -> None:
    with serve(planned(GOOD)) as server:
        [reply] = asked(endpoint(server, temperature=0.5, max_tokens=64), request())
    assert reply == Reply("fine", {}, 7, 3)
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [{
        "model": "m-1", "messages": [{"role": "user", "content": "Right?"}], "temperature": 0.5, "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA,
                                                                   "strict": True}}}]
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(("structured", "form"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_servers_without_schemas(structured: str, form: object) -> None:
    with serve(planned(GOOD)) as server:
        asked(endpoint(server, structured=structured), request())
    assert server.bodies[0].get("response_format") == form


def test_the_probabilities_of_words_are_summed_over_their_spellings() -> None:
    with serve(planned(Answer(next_tokens({"Yes": 0.5, " yes": 0.2, "NO": 0.1, "Well": 0.1})))) as server:
        [reply] = asked(endpoint(server), request(schema=None, options=("Yes", "No")))
    assert reply.text == "" and reply.probabilities["Yes"] == pytest.approx(0.7)
    assert reply.probabilities["No"] == pytest.approx(0.1)
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["top_logprobs"]) == (1, 20)


@pytest.mark.parametrize("failure", [
    Answer("slow down", status=429), Answer("oops", status=500), Answer("", status=503), Answer("no JSON at all"),
    Answer(completion("fine")[:20]), Answer(completion("fine"), cut=True), Answer(completion("late"), wait=0.6),
    Answer(completion("drop by drop"), drip=0.05)],
    ids=["429", "500", "503", "no JSON", "half a JSON", "cut", "slow", "drop by drop"])
def test_what_may_come_right_is_asked_again(failure: Answer) -> None:
    waits: list[float] = []
    with serve(planned(failure, failure, GOOD)) as server:
        [reply] = asked(endpoint(server, waits, timeout=0.3 if failure.wait or failure.drip else 5.0), request())
    assert reply.text == "fine" and len(server.bodies) == 3
    assert 0.5 <= waits[0] <= 1.0 and 1.0 <= waits[1] <= 2.0  # twice as long each time, and never all at one moment


def test_retry_after_is_honoured() -> None:
    waits: list[float] = []
    said = ("7.5", "nan", "-3", "9999999", "soon")
    answers = [Answer("", status=429, headers={"retry-after": text}) for text in said]
    with serve(planned(*answers, GOOD)) as server:
        asked(endpoint(server, waits), request())
    assert waits[0] == 7.5 and waits[1] <= 2 and waits[2] <= 4 and waits[3] == 300 and waits[4] <= 16


def test_it_gives_up_and_says_what_to_do() -> None:
    with serve(planned(Answer("the model is loading", status=503))) as server:
        with pytest.raises(UserError, match=r"failed 3 times, last with: status 503: the model is loading\. Run the"):
            asked(endpoint(server, tries=3), request())
    assert len(server.bodies) == 3


@pytest.mark.parametrize(("answer", "message"), [
    (Answer('{"error": "no such model"}', status=404), "status 404: .*no such model"),
    (Answer("bad schema", status=400), "status 400: bad schema"),
    (Answer('{"choices": []}'), "no chat completion"), (Answer("[]"), "no chat completion"),
    (Answer('{"choices": [{"message": {"content": 5}}]}'), "no chat completion"),
    (Answer(completion("x"), status=302, headers={"location": "http://127.0.0.1:1/steal"}), "is not followed"),
])
def test_what_no_further_try_would_mend_ends_it(answer: Answer, message: str) -> None:
    with serve(planned(answer)) as server:
        with pytest.raises(UserError, match=message):
            asked(endpoint(server), request())
    assert len(server.bodies) == 1 and not any(path.startswith("GET") for path in server.paths)


def test_a_refusal_to_answer_is_an_empty_reply() -> None:
    with serve(planned(Answer(completion(None)))) as server:
        assert asked(endpoint(server), request())[0].text == ""


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    with serve(planned(Answer(" " * (MAX_BYTES + 1)), GOOD)) as server:
        assert asked(endpoint(server), request())[0].text == "fine"


def test_a_wrong_schema_of_the_content_is_the_judges_business() -> None:
    with serve(planned(Answer(completion('{"nonsense": 1}')))) as server:
        assert asked(endpoint(server), request())[0].text == '{"nonsense": 1}'


def test_requests_run_side_by_side_and_replies_find_their_requests() -> None:
    gate = threading.Barrier(4, timeout=5)

    def script(number: int, body: dict[str, Any]) -> Answer:
        gate.wait()  # passes only when four are there
        return Answer(completion(body["messages"][0]["content"]))

    with serve(script) as server:
        replies = asked(endpoint(server, concurrency=4), *(request(str(number)) for number in range(12)))
    assert [reply.text for reply in replies] == [str(number) for number in range(12)]
    assert server.at_once == 4


def test_an_error_lets_those_under_way_arrive_and_starts_no_others() -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return Answer("broken", status=400) if body["messages"][0]["content"] == "0" else Answer(
            completion("fine"), wait=0.2)

    arrived: list[int] = []
    with serve(script) as server:
        client = endpoint(server, concurrency=2)
        with pytest.raises(UserError, match="broken"):
            arrived.extend(place for place, _ in client([request(str(number)) for number in range(40)]))
        client.close()
    assert len(server.answered) == len(server.bodies) - 1 <= 3 and len(arrived) == len(server.answered)


def test_no_more_requests_a_minute_than_are_allowed() -> None:
    waits: list[float] = []
    pace = Pace(30.0, waits.append, clock=lambda: 5.0)
    for _ in range(4):
        pace.wait()
    assert waits == [2.0, 4.0, 6.0]  # two seconds after the one before each; the clock here stands still
    Pace(None, lambda seconds: pytest.fail("no limit, no wait")).wait()
    waits.clear()
    with serve(planned(GOOD)) as server:
        asked(endpoint(server, waits, requests_per_minute=0.1, concurrency=1), request("1"), request("2"))
    assert len(waits) == 1 and 500 < waits[0] <= 600


# The key ---------------------------------------------------------------------------------------------------------

KEY = "sk-planted-0123456789"


def test_the_key_goes_into_one_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch,
                                                       capfd: pytest.CaptureFixture[str],
                                                       caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)
    caplog.set_level("DEBUG")
    with serve(planned(Answer(f"Incorrect API key provided: {KEY}", status=401))) as server:
        client = endpoint(server, key_variable="PLANTED_KEY")
        with pytest.raises(UserError) as error:
            asked(client, request())
    assert server.headers[0]["authorization"] == f"Bearer {KEY}" and KEY not in str(server.bodies)
    assert "Incorrect API key provided: [key]" in str(error.value)
    told = [str(error.value), repr(error.value.__cause__), repr(client.settings), caplog.text, *capfd.readouterr()]
    assert not any(KEY in text for text in told)


@pytest.mark.parametrize("value", [None, "", "  ", "a\nb", "schlüssel"])
def test_a_key_that_is_not_there_or_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("PLANTED_KEY", value)
    with pytest.raises(UserError, match="PLANTED_KEY: that environment variable"):
        Endpoint(Settings(url="http://127.0.0.1:1/v1", model="m", key_variable="PLANTED_KEY"))


@pytest.mark.parametrize(("url", "message"), [
    ("", "must begin with https"), ("host/v1", "must begin with https"), ("file:///etc/key", "must begin with https"),
    ("gopher://host/", "must begin with https"), ("http://", "must begin with https"),
    ("https://user:word@host/v1", "holds a name, a password"), ("https://host/v1?key=1", "a query"),
    ("https://host/v1#x", "a fragment"), ("http://[::1", "is no URL"),
])
def test_addresses_that_are_none(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_url(url, secret=False)


def test_a_key_does_not_cross_a_network_in_the_clear() -> None:
    with pytest.raises(UserError, match="unencrypted; use https"):
        check_url("http://judge.example.com/v1", secret=True)
    for url in ("http://localhost:8000/v1", "http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "https://host/v1"):
        assert check_url(url, secret=True) == url
    assert check_url("http://judge.example.com/v1", secret=False)
    assert not is_loopback("localhost.example.com") and not is_loopback("10.0.0.1")


def test_nothing_a_row_says_changes_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str] = []
    stream: Callable[..., Any] = httpx.Client.stream

    def noted(self: httpx.Client, method: str, url: str, **more: Any) -> Any:
        addresses.append(url)
        return stream(self, method, url, **more)

    monkeypatch.setattr(httpx.Client, "stream", noted)
    with serve(planned(GOOD)) as server:
        asked(endpoint(server), request("http://169.254.169.254/latest/meta-data @evil.example.com/../../x"))
        assert addresses == [f"{server.url}/chat/completions"]


def test_probabilities_are_bounded() -> None:
    body = next_tokens({"Yes": 1.0}).replace('"logprob": 0.0', '"logprob": 5.0')
    with serve(planned(Answer(body))) as server:
        [reply] = asked(endpoint(server), request(schema=None, options=("Yes", "No")))
    assert reply.probabilities == {"Yes": 1.0} and math.isfinite(reply.probabilities["Yes"])
