"""vLLM behind URLs: the texts of the plain engine before and after a push, and an error with a way out for whatever a
server falls short of."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignment.engine_choice import RolloutConfig, rollout_engine
from alignment.group import Group
from alignment.models import load_tokenizer, new_model, save_policy
from alignment.origin import EMBEDDED
from alignment.rollout import PushError, Sampling, ServerEngine, TransformersEngine, make_engine
from alignment.rollout.servers import arguments, devices, start_servers
from alignment.stage import Rollout, Serving
from data.schema import UserError
from tests.alignment.fake_vllm import FakeVllm, serving
from tests.alignment.test_ppo import Shorter, train
from tests.alignment.test_ppo import make as make_trainer
from tests.alignment.test_ranks import alive
from tests.alignment.test_rollout import GREEDY, SAMPLED, assert_same, model_of, prompts
from tests.alignment.tiny_model import perturb

SERVE = Path(__file__).parents[2] / "alignment" / "rollout" / "serve.py"
FAKE = (sys.executable, str(Path(__file__).with_name("fake_api_server.py")))


def engine_of(folder: Path, *servers: FakeVllm, model: object, **settings: object) -> ServerEngine:
    rollout = Rollout(engine="server", urls=[server.url for server in servers], **settings)  # type: ignore[arg-type]
    engine = make_engine(Path("unused"), rollout, max_length=160, model=model,  # type: ignore[arg-type]
                         serving=Serving(folder / "weights", folder / "log"))
    assert isinstance(engine, ServerEngine)
    return engine


@contextlib.contextmanager
def asked(folder: Path, *faults: str, **settings: object) -> Iterator[tuple[ServerEngine, FakeVllm]]:
    """An engine of one server, which the weights have been pushed to."""
    with serving(model_of(True), *faults) as server:
        engine = engine_of(folder, server, model=model_of(True), **settings)
        try:
            yield engine, server
        finally:
            engine.close()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_two_servers_are_the_plain_engine(tied: bool, tmp_path: Path) -> None:
    model, requests, seeds = model_of(tied), prompts(11), list(range(11))
    perturb(model, 0.05, seed=1)  # the servers begin with other weights
    with serving(model_of(tied)) as one, serving(model_of(tied)) as other:
        engine = engine_of(tmp_path, one, other, model=model)
        for push in range(2):
            twin = TransformersEngine(Path("unused"), max_length=160, model=model)
            for sampling in (GREEDY, SAMPLED, Sampling(max_new_tokens=24, temperature=0.7, top_p=0.8)):
                for server in (one, other):
                    server.bodies.clear()
                assert_same(engine.generate(requests, sampling, seeds), twin.generate(requests, sampling, seeds))
                assert [len(one.bodies), len(other.bodies)] == [6, 5]
            perturb(model, 0.05, seed=push + 2)
            engine.push(model)
        assert one.bodies[0]["top_k"] == 0 and one.bodies[0]["repetition_penalty"] == 1.0  # no defaults of the server's
        engine.close()
    assert not list((tmp_path / "weights").iterdir())


def test_ppo_trains_through_servers(tmp_path: Path) -> None:
    policy = model_of(True)
    with serving(model_of(True)) as server:
        engine = engine_of(tmp_path, server, model=policy)
        history = train(make_trainer(Shorter(), policy=policy, engine=engine, critic_warmup=0), 2)
        engine.close()
    assert all(metrics["logprob_gap_max"] < 1e-4 for metrics in history) and history[-1]["kl_k3"] > 0


@pytest.mark.parametrize(("fault", "error", "said"), [
    ("stale", PushError, "the server at http://127.0.0.1.* differ from the model's by up to .* Use rollout=vllm"),
    ("elsewhere", PushError, "did not read the weights .*status 500: .*no such folder.* put runs_dir on a disk"),
    ("busy", PushError, "could not drop its cached prefixes"),
    ("no routes", UserError, "rollout.urls: .* start it with VLLM_SERVER_DEV_MODE=1"),
    ("raw", UserError, "rollout.urls: .* from before the temperature; start it with --logprobs-mode processed"),
    ("no vllm", UserError, "rollout.urls: .*/v1/models names no model with its `max_model_len`"),
    ("no tokens", UserError, "rollout.urls: .* answers with what is no completion of vLLM's, token ids"),
    ("sends on", UserError, "rollout.urls: .*/v1/completions answers with status 307"),
    ("hangs", UserError, "rollout.reply_seconds=0.5: .* did not answer in that time .* give it longer")])
def test_what_a_server_falls_short_of_is_said_with_a_way_out(fault: str, error: type[Exception], said: str,
                                                             tmp_path: Path) -> None:
    model = model_of(True)
    perturb(model, 0.05, seed=1)
    with serving(model_of(True), fault) as server, pytest.raises(error, match=said):
        engine_of(tmp_path, server, model=model, reply_seconds=0.5 if fault == "hangs" else 60.0)
    assert not list((tmp_path / "weights").glob("*"))


def test_a_server_for_shorter_texts_is_refused(tmp_path: Path) -> None:
    with serving(model_of(True), max_model_len=100) as server, pytest.raises(
            UserError, match=r"takes 100 tokens, .* up to 160; start it with --max-model-len 160"):
        engine_of(tmp_path, server, model=model_of(True))
    assert server.asked == ["/v1/models"]


def test_a_server_that_is_not_there_or_goes_away(tmp_path: Path) -> None:
    with asked(tmp_path) as (engine, server):
        url = server.url
        server.shutdown()
        server.server_close()
        with pytest.raises(UserError, match=f"rollout.urls: {url} cannot be reached .* start a server there .* or use "
                                            "rollout=vllm"):
            engine.generate(prompts(3), GREEDY, [0, 1, 2])


def test_of_several_processes_one_asks(tmp_path: Path) -> None:
    """The others know no server, and get what it was told."""
    rollout = Rollout(engine="server", urls=["http://127.0.0.1:9"])
    other = make_engine(Path("unused"), rollout, max_length=160, model=model_of(True), group=Group(1, 2),
                        serving=Serving(tmp_path, tmp_path / "log"))
    other.push(model_of(True))
    other.close()
    assert other.name == "server"


# Servers that a stage starts ---------------------------------------------------------------------------------------


def test_servers_come_up_and_are_ended(tmp_path: Path) -> None:
    rollout = Rollout(engine="server", servers=2, start_seconds=60)
    servers, stop = start_servers(tmp_path / "model", rollout, max_length=160, log=tmp_path / "logs" / "ppo.server.log",
                                  command=FAKE)
    assert len({server.url for server in servers}) == 2 and all(server.healthy() for server in servers)
    stop()
    assert not any(server.healthy() for server in servers)
    with pytest.raises(UserError, match=r"the server at http.* was ended by SIGKILL.*; the last lines of"):
        servers[0].ask("GET", "/health")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["ppo.server-1.log", "ppo.server.log"]
    for server in servers:
        server.close()


@pytest.mark.parametrize(("model", "said"), [
    ("breaks", "vLLM's server ended with exit code 3; the last lines of .*no room for the cache\nUse rollout=vllm or"),
    ("loads for ever", "rollout.start_seconds=1: vLLM's server was not ready in that time; give it longer, or look")])
def test_a_server_that_does_not_come_up_is_an_error_and_no_hang(model: str, said: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="(?s)" + said):
        start_servers(tmp_path / model, Rollout(engine="server", start_seconds=1.0 if "ever" in model else 60.0),
                      max_length=160, log=tmp_path / "server.log", command=FAKE)
    assert time.monotonic() - started < 50


def test_a_server_ends_with_whoever_started_it() -> None:
    """However that ends: the other end of its stdin is closed by the system."""
    code = (f"import runpy, threading, time; end = runpy.run_path({str(SERVE)!r})['end_with_stdin']; "
            "threading.Thread(target=end).start(); print('up', flush=True); time.sleep(600)")
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          start_new_session=True) as server:
        assert server.stdout is not None and server.stdin is not None
        assert server.stdout.readline() == b"up\n"
        assert alive(server.pid)
        server.stdin.close()
        assert server.wait(30) == -9


def test_what_a_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = arguments(Path("/models/policy"), Rollout(engine="server", dtype="bfloat16", tensor_parallel=2), port=8123,
                     max_length=9000)
    options = dict(itertools.pairwise(told))
    assert options["--host"] == "127.0.0.1" and options["--port"] == "8123" and options["--dtype"] == "bfloat16"
    assert options["--tensor-parallel-size"] == "2" and options["--max-model-len"] == "9000"
    assert options["--max-num-batched-tokens"] == "9000"  # a prompt is never split
    monkeypatch.setattr("alignment.rollout.servers.gpus", lambda: 4)
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "0,1,6,7")
    rollout = Rollout(engine="server", servers=2, tensor_parallel=2)
    assert [devices(rollout, number)["CUDA_VISIBLE_DEVICES"] for number in range(2)] == ["6,7", "0,1"]
    with pytest.raises(UserError, match=r"rollout\.servers=3 with rollout\.tensor_parallel=2: need 6 GPUs"):
        devices(dataclasses.replace(rollout, servers=3), 0)


@pytest.mark.parametrize(("settings", "said"), [
    ({"urls": ["http://host:8000"]}, "urls=.*: is for servers, and engine=auto has none; use rollout=server"),
    ({"engine": "vllm", "servers": 2}, "servers=2: is for servers, and engine=vllm has none"),
    ({"engine": "server", "urls": ["http://host:1"], "servers": 2}, "servers=2: .* leave one out"),
    ({"engine": "server", "urls": ["host:8000"]}, "urls: 'host:8000' is no address .* http://HOST:PORT"),
    ({"engine": "server", "urls": ["http://me:secret@host:1"]}, "urls: .* is no address"),
    ({"engine": "server", "urls": ["http://host:1", "http://host:1"]}, "urls: names a server twice"),
    ({"engine": "server", "sleep": True}, "sleep=True: .* engine=server is not; use rollout=vllm")])
def test_settings_that_do_not_fit_each_other(settings: dict[str, object], said: str) -> None:
    assert RolloutConfig().conflict() == RolloutConfig(engine="server", urls=["https://host:1/v1"]).conflict() == ""
    assert re.search(said, RolloutConfig(**settings).conflict())  # type: ignore[arg-type]


def test_sleep_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.engine_choice.cuda_visible", lambda: False)
    with pytest.raises(UserError, match=r"rollout\.sleep=true: there is no GPU here"):
        rollout_engine(RolloutConfig(sleep=True))
    monkeypatch.setattr("alignment.engine_choice.cuda_visible", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rollout\.engine=server: vLLM is not installed here"):
        rollout_engine(RolloutConfig(engine="server"))
    assert rollout_engine(RolloutConfig(engine="server", urls=["http://host:1"])) == "server"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM wheel on this platform")
def test_vllms_own_server(tmp_path: Path) -> None:
    """Started, asked, given other weights, asked again, ended."""
    tokenizer = load_tokenizer(EMBEDDED)
    model = new_model(tokenizer, hidden_size=64, num_layers=2, num_heads=2, intermediate_size=96, seed=3,
                      architecture="qwen3")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 400)]
    save_policy(model, tokenizer, tmp_path / "model")
    requests, seeds, found = prompts(20), list(range(20)), []
    rollout = Rollout(engine="server", max_num_seqs=16, kv_cache_mb=32)
    engine = make_engine(tmp_path / "model", rollout, max_length=160, model=model,
                         serving=Serving(tmp_path / "weights", tmp_path / "logs" / "server.log"))
    twin = TransformersEngine(Path("unused"), max_length=160, model=model)
    for push in range(2):
        for sampling in (GREEDY, SAMPLED, Sampling(max_new_tokens=24, temperature=0.7, top_p=0.8)):
            found.append(engine.generate(requests, sampling, seeds))
            assert_same(twin.generate(requests, sampling, seeds), found[-1])
        perturb(model, 0.05, seed=push)
        engine.push(model)
    assert found[1] != found[4] and (tmp_path / "logs" / "server.log").stat().st_size
    engine.close()
