"""Drives the official `anthropic` SDK against the stand-in provider: directly, or through a gateway before it.

In the environment:
    SDK_BASE_URL  what the SDK is told as its base URL
    SDK_API_KEY   what it is told as its key
    SDK_STAND_IN  the stand-in itself, whose calls under /_stand-in/ script faults and hold streams back

Arguments are names of checks; none: all of them. It ends with 0 only if all held.
"""

import asyncio
import json
import os
import sys
import time
import traceback
import urllib.request

import anthropic
from anthropic._decoders.jsonl import JSONLDecoder
from anthropic.types.messages import MessageBatchIndividualResponse

BASE_URL = os.environ["SDK_BASE_URL"].rstrip("/")
API_KEY = os.environ["SDK_API_KEY"]
STAND_IN = os.environ["SDK_STAND_IN"].rstrip("/")

# Nothing that is waited for takes longer, in seconds.
BOUND = 20.0
ASK = {"model": "stand-in-large", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello ☀"}]}


def client(**options):
    options = {"base_url": BASE_URL, "api_key": API_KEY, "timeout": BOUND, "max_retries": 0} | options
    return anthropic.Anthropic(**options)


def stand_in(method, call, body=None):
    """One of the stand-in's own calls."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{STAND_IN}/_stand-in/{call}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=BOUND) as answer:
        return json.load(answer)


def fault(status, error, message, *, times=1, retry_after=None, should=None, after_millis=None):
    """The next `times` calls of the API are answered with this error."""
    body = {"shape": "provider_error", "error": error, "message": message}
    answer = {"kind": "status", "status": status, "body": body, "retry_after_secs": retry_after}
    retry = {"kind": "retry", "should": should, "after_millis": after_millis}
    stand_in("POST", "faults", {"target": "api", "times": times, "fault": answer, "also": [retry]})


def calls():
    """How many calls of the API the stand-in has seen."""
    return stand_in("GET", "state")["counters"]["api_calls"]


def equal(found, wanted):
    if found != wanted:
        raise AssertionError(f"{found!r} instead of {wanted!r}")


def until(holds):
    """Waits for a condition that is about to hold."""
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end, "it does not hold in time"
        time.sleep(0.01)


def raised(kind, act):
    """The error of exactly this type that `act` ends with."""
    try:
        act()
    except anthropic.AnthropicError as error:
        equal(type(error), kind)
        return error
    raise AssertionError(f"no {kind.__name__}")


def check_messages():
    answer = client().messages.create(**ASK)
    equal((answer.type, answer.role, answer.stop_reason), ("message", "assistant", "end_turn"))
    equal(answer.model, ASK["model"])
    equal([block.type for block in answer.content], ["text"])
    assert answer.content[0].text and answer.usage.output_tokens > 0
    assert answer._request_id.startswith("req_"), answer._request_id
    raw = client().messages.with_raw_response.create(**ASK)
    equal((raw.status_code, raw.retries_taken), (200, 0))


def check_headers():
    """What the client says besides arrives: its beta list, its version, its query."""
    stand_in("PATCH", "settings", {"record_headers": True})
    client().beta.messages.create(**ASK, betas=["one-2025-01-01", "two-2025-01-01"], extra_query={"a": "b c"})
    seen = stand_in("GET", "calls")["calls"][-1]
    assert seen["target"] in ("/v1/messages?a=b+c", "/v1/messages?a=b%20c"), seen["target"]
    headers = {}
    for name, value in seen["headers"]:
        headers.setdefault(name, []).append(value)
    betas = [beta.strip() for line in headers["anthropic-beta"] for beta in line.split(",")]
    assert {"one-2025-01-01", "two-2025-01-01"} <= set(betas), betas
    equal(headers["anthropic-version"], [client().default_headers["anthropic-version"]])
    equal(headers["content-type"], ["application/json"])
    assert seen["source"] in ("oauth", "api_key"), seen["source"]


# Events of the stand-in's stream that the SDK shows; it keeps pings to itself.
SHOWN = (
    ["message_start", "content_block_start"]
    + ["content_block_delta"] * 5
    + ["content_block_stop", "message_delta", "message_stop"]
)
# The ping stands before the first delta, so that two events go for that one.
GOES = [1, 1, 2] + [1] * 7


def check_streaming():
    """Each event is here before the next one was sent: the stand-in sends it only when it is told to."""
    stand_in("POST", "streams", {"hold": True})
    try:
        with client().messages.create(**ASK, stream=True) as stream:
            shown = []
            for go in GOES:
                stand_in("POST", "streams", {"go": go})
                shown.append(next(stream).type)
            equal(shown, SHOWN)
            equal(list(stream), [])
    finally:
        stand_in("POST", "streams", {"hold": False})
    with client().messages.stream(**ASK) as stream:
        pieces = list(stream.text_stream)
        equal("".join(pieces), "x" * 40)
        equal(len(pieces), 5)
        equal(stream.get_final_message().stop_reason, "end_turn")


def check_streaming_async():
    async def stream():
        options = {"base_url": BASE_URL, "api_key": API_KEY, "timeout": BOUND, "max_retries": 0}
        async with anthropic.AsyncAnthropic(**options) as client:
            return [event.type async for event in await client.messages.create(**ASK, stream=True)]

    equal(asyncio.run(stream()), SHOWN)


def check_stream_left():
    """A client that goes away in the middle of a stream is noticed by the provider."""
    before = stand_in("GET", "streams")["dropped"]
    stand_in("POST", "streams", {"hold": True})
    try:
        with client().messages.create(**ASK, stream=True) as stream:
            stand_in("POST", "streams", {"go": 1})
            equal(next(stream).type, "message_start")
        until(lambda: stand_in("GET", "streams")["dropped"] == before + 1)
    finally:
        stand_in("POST", "streams", {"hold": False})


def check_count_tokens():
    counted = client().messages.count_tokens(model=ASK["model"], messages=ASK["messages"])
    assert counted.input_tokens > 0


def check_models():
    names = ["stand-in-large", "stand-in-small"]
    equal([model.id for model in client().models.list()], names)
    first = client().models.list(limit=1)
    equal(([model.id for model in first.data], first.has_more), (names[:1], True))
    equal(client().models.retrieve(names[1]).id, names[1])
    error = raised(anthropic.NotFoundError, lambda: client().models.retrieve("no-such-model"))
    equal((error.status_code, error.type), (404, "not_found_error"))


def batch(secs):
    stand_in("PATCH", "settings", {"objects": {"batch_secs": secs}})
    requests = [{"custom_id": "good", "params": ASK}, {"custom_id": "bad", "params": {**ASK, "max_tokens": 0}}]
    made = client().messages.batches.create(requests=requests)
    equal((made.processing_status, made.request_counts.processing), ("in_progress", 2))
    return made


def results(made):
    """The results by the base URL; the SDK's own call follows `results_url`, which names the provider."""
    path = f"/v1/messages/batches/{made.id}/results"
    lines = client().get(path, cast_to=JSONLDecoder[MessageBatchIndividualResponse], stream=True)
    return {line.custom_id: line.result for line in lines}


def check_batches():
    made = batch(0)
    ended = client().messages.batches.retrieve(made.id)
    equal(ended.processing_status, "ended")
    equal((ended.request_counts.succeeded, ended.request_counts.errored), (1, 1))
    found = results(made)
    equal(found["good"].message.content[0].type, "text")
    equal(found["bad"].error.error.type, "invalid_request_error")
    if ended.results_url.startswith(BASE_URL + "/"):
        equal({line.custom_id for line in client().messages.batches.results(made.id)}, {"good", "bad"})
    assert made.id in [other.id for other in client().messages.batches.list(limit=1)]
    equal(client().messages.batches.delete(made.id).type, "message_batch_deleted")
    raised(anthropic.NotFoundError, lambda: client().messages.batches.retrieve(made.id))


def check_batches_canceled():
    made = batch(3600)
    equal(client().messages.batches.retrieve(made.id).results_url, None)
    equal(client().messages.batches.cancel(made.id).processing_status, "canceling")
    equal(client().messages.batches.retrieve(made.id).request_counts.canceled, 2)
    equal({result.type for result in results(made).values()}, {"canceled"})


def check_files():
    content = bytes(range(256)) * 4096 + b"\r\n--\r\n"
    file = client().files.upload(file=("every byte.bin", content, "application/x-bytes"))
    equal((file.filename, file.mime_type, file.size_bytes), ("every byte.bin", "application/x-bytes", len(content)))
    equal(client().files.retrieve_metadata(file.id), file)
    assert file.id in [other.id for other in client().files.list(limit=1)]
    equal(client().files.download(file.id).read() == content, True)
    equal(client().files.delete(file.id).id, file.id)
    error = raised(anthropic.NotFoundError, lambda: client().files.download(file.id))
    equal(error.type, "not_found_error")


def check_errors():
    error = raised(anthropic.BadRequestError, lambda: client().messages.create(**{**ASK, "max_tokens": 0}))
    equal((error.type, error.api_message), ("invalid_request_error", "max_tokens: Input should be greater than or equal to 1"))
    assert error.request_id.startswith("req_") and "max_tokens" in str(error)
    error = raised(anthropic.AuthenticationError, lambda: client(api_key="nobody").messages.create(**ASK))
    equal((error.status_code, error.type), (401, "authentication_error"))
    for status, kind, name in [
        (413, anthropic.ContentTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ]:
        fault(status, name, f"scripted {status}", retry_after=7)
        error = raised(kind, lambda: client().messages.create(**ASK))
        equal((error.status_code, error.type, error.api_message), (status, name, f"scripted {status}"))
        equal(error.response.headers["retry-after"], "7")
        fault(status, name, f"scripted {status}")
        raised(kind, lambda: client().messages.create(**ASK, stream=True))


def check_retries():
    patient = client(max_retries=2).messages.with_raw_response
    before = calls()
    fault(429, "rate_limit_error", "slow down", times=2, after_millis=5)
    equal(patient.create(**ASK).retries_taken, 2)
    fault(529, "overloaded_error", "Overloaded", retry_after=0)
    equal(patient.create(**ASK).retries_taken, 1)
    fault(400, "invalid_request_error", "try it again", should=True, after_millis=5)
    equal(patient.create(**ASK).retries_taken, 1)
    fault(429, "rate_limit_error", "slow down", retry_after=1)
    started = time.monotonic()
    equal(patient.create(**ASK).retries_taken, 1)
    waited = time.monotonic() - started
    assert waited >= 1, f"retry-after was 1 s, and the next try came after {waited:.3f} s"
    equal(calls() - before, 9)


def check_no_retries():
    """Not where the answer says so, and no more of them than the client allows."""
    patient = client(max_retries=2).messages
    before = calls()
    fault(529, "overloaded_error", "leave it", should=False)
    raised(anthropic.OverloadedError, lambda: patient.create(**ASK))
    equal(calls() - before, 1)
    fault(429, "rate_limit_error", "slow down", times=3, after_millis=5)
    raised(anthropic.RateLimitError, lambda: patient.create(**ASK))
    equal(calls() - before, 4)


def main():
    checks = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}
    failed = []
    for name in sys.argv[1:] or checks:
        stand_in("DELETE", "faults")
        try:
            checks[name]()
            equal(stand_in("GET", "faults")["waiting"], [])
            print(f"{name}: held", flush=True)
        except Exception:
            traceback.print_exc()
            print(f"{name}: FAILED", flush=True)
            failed.append(name)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
