"""Both ends of an enrolment over HTTPS: who gets a certificate, and what a stranger at the port can do."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from overspill.certificates import check_pair, dns_names, new_key, signing_request, utc_now
from overspill.enrolment import CA_PATH, ENROLL_PATH, Code
from overspill.errors import AdminError, InvalidRequestError, NotPermittedError, UnavailableError
from overspill.tls import WatchedTls
from overspill_agent.config import Pki
from overspill_agent.pki import Authority, Invitations
from overspill_agent.registry import Registry
from overspill_agent.service.enrolment import MOST_PER_MINUTE, Enrolment
from overspill_agent.service.runner_channel import RunnerChannel, RunnerTerms
from overspill_agent.service.servers import HttpsServer
from overspill_agent.spool import Reserve
from overspill_agent.store import Store
from overspill_sidecar.sites.enrolment import redeem
from tests.integration.agent_site import free_port

#: Fewer than the threads of the one pool that both ends have here.
_AT_ONCE = 4


class Desk:
    """Where one site's codes are redeemed."""

    def __init__(self, directory: Path) -> None:
        config = Pki(directory=directory)
        self.authority = Authority(config)
        self.authority.create(["localhost"], utc_now())
        self.invitations = Invitations(self.authority)
        self.port = free_port()
        registry = Registry(Store(directory / "agent.db"), directory / "spool", Reserve(directory, 1))
        app = RunnerChannel(registry, RunnerTerms(lease_s=90, spool_bytes=0)).app(Enrolment(self.authority).routes())
        self.server = HttpsServer(app, f"127.0.0.1:{self.port}", WatchedTls(config.agent_files))

    def code(self, cluster: str = "rig") -> Code:
        return self.invitations.invite(cluster, utc_now())

    def post(self, body: bytes, source: str = "127.0.0.1", headers: dict[str, str] | None = None) -> tuple[int, str]:
        context = ssl.create_default_context(cadata=self.authority.ca_pem.decode())
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=30, context=context, source_address=(source, 0)
        )
        try:
            connection.request("POST", ENROLL_PATH, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@asynccontextmanager
async def desk_in(directory: Path) -> AsyncIterator[Desk]:
    desk = Desk(directory)
    await desk.server.start()
    try:
        yield desk
    finally:
        await desk.server.stop()


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_in(tmp_path / "pki") as desk:
        yield desk


def _request(code: Code, **changes: Any) -> bytes:
    request = {
        "invitation": code.invitation.hex(),
        "secret": code.secret.hex(),
        "signing_request": signing_request(new_key()).decode(),
    }
    return json.dumps({**request, **changes}).encode()


async def test_a_code_is_exchanged_for_a_certificate_of_its_cluster(desk: Desk) -> None:
    enrolment = await asyncio.to_thread(redeem, "localhost", desk.port, desk.code())
    assert enrolment.slurm_cluster == "rig"
    assert dns_names(check_pair(enrolment.certificate, enrolment.private_key)) == {"rig"}
    assert enrolment.ca == desk.authority.ca_pem


async def test_of_many_who_use_one_code_at_once_one_gets_a_certificate(desk: Desk) -> None:
    code = desk.code()
    answers = await asyncio.gather(*(asyncio.to_thread(desk.post, _request(code)) for _ in range(_AT_ONCE)))
    assert sorted(status for status, _ in answers) == [200] + [403] * (_AT_ONCE - 1)
    assert [each.how for each in desk.authority.issued()] == ["init", "enroll"]


async def test_a_code_of_another_site_is_not_sent_and_stays_good(desk: Desk, tmp_path: Path) -> None:
    async with desk_in(tmp_path / "other") as other:
        code = desk.code()
        with pytest.raises(NotPermittedError, match="is not the site that the code is of"):
            await asyncio.to_thread(redeem, "localhost", other.port, code)
    assert (await asyncio.to_thread(redeem, "localhost", desk.port, code)).slurm_cluster == "rig"


async def test_an_agent_by_a_name_that_its_certificate_lacks_gets_no_secret(desk: Desk) -> None:
    code = desk.code()
    with pytest.raises(InvalidRequestError, match=r"not good for 127\.0\.0\.1"):
        await asyncio.to_thread(redeem, "127.0.0.1", desk.port, code)
    assert [each.tries for each in desk.invitations.open_invitations(utc_now())] == [0]


async def test_what_is_no_agents_port_is_told(tmp_path: Path) -> None:
    closed = free_port()
    code = Code(b"i" * 6, b"s" * 16, b"c" * 32)
    with pytest.raises(UnavailableError, match="cannot reach"):
        await asyncio.to_thread(redeem, "localhost", closed, code)
    config = Pki(directory=tmp_path / "pki")
    Authority(config).create(["localhost"], utc_now())
    server = HttpsServer(Starlette(), f"127.0.0.1:{closed}", WatchedTls(config.agent_files))
    await server.start()
    try:
        with pytest.raises((AdminError, Exception), match=r"Not Found|gives no certificate"):
            await asyncio.to_thread(redeem, "localhost", closed, code)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"invitation": "../../../agent"},
        {"secret": "00"},
        {"secret": None},
        {"signing_request": "no request"},
        {"signing_request": 7},
    ],
)
async def test_a_request_that_makes_no_sense_costs_the_code_nothing(desk: Desk, changes: dict[str, Any]) -> None:
    code = desk.code()
    status, _ = await asyncio.to_thread(desk.post, _request(code, **changes))
    assert status == 400
    assert [each.tries for each in desk.invitations.open_invitations(utc_now())] == [0]


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}])
async def test_a_body_that_is_too_long_is_refused_before_it_is_kept(desk: Desk, headers: dict[str, str]) -> None:
    body = b" " * 20_000 + _request(desk.code())
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if headers else body
    status, told = await asyncio.to_thread(desk.post, sent, headers=headers)
    assert (status, told) == (413, "the request is too long")


async def test_a_stranger_who_asks_all_the_time_is_refused_and_keeps_no_other_from_enrolling(desk: Desk) -> None:
    code = desk.code()
    wrong = _request(code, invitation="0" * 12)
    statuses = [(await asyncio.to_thread(desk.post, wrong, "127.0.0.2"))[0] for _ in range(MOST_PER_MINUTE + 2)]
    # A minute may begin in between.
    assert statuses.count(403) >= MOST_PER_MINUTE
    assert statuses[-1] == 429 or statuses.count(403) > MOST_PER_MINUTE
    assert (await asyncio.to_thread(redeem, "localhost", desk.port, code)).slurm_cluster == "rig"


async def test_the_authoritys_certificate_is_everybodys_and_its_key_nobodys(desk: Desk) -> None:
    def got(path: str) -> tuple[int, bytes]:
        context = ssl.create_default_context(cadata=desk.authority.ca_pem.decode())
        connection = http.client.HTTPSConnection("localhost", desk.port, timeout=30, context=context)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.status, answer.read()
        connection.close()
        return body

    assert await asyncio.to_thread(got, CA_PATH) == (200, desk.authority.ca_pem)
    for path in ("/v1/ca.key", "/v1/ca/../ca.key", ENROLL_PATH):
        status, body = await asyncio.to_thread(got, path)
        assert status in {404, 405}
        assert b"PRIVATE" not in body
