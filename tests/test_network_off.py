"""The tests' own guard: nothing in this process leaves this machine, and a local server still answers."""

import asyncio
import socket

import httpx
import pytest

from tests.conftest import NetworkIsOff


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 443)])
def test_a_connection_to_elsewhere_is_refused(address):
    """Connecting to another machine, by number or by name, fails at once and names it."""
    with socket.socket() as out, pytest.raises(NetworkIsOff, match=address[0]):
        out.connect(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, pytest.raises(NetworkIsOff, match=address[0]):
        out.sendto(b"x", address)


def test_a_client_sees_it_as_a_failed_connection():
    """An HTTP client reports the refusal as the connection error that it reports on a machine without network."""
    with pytest.raises(httpx.ConnectError, match="the network is off in tests"):
        httpx.get("https://192.0.2.1/", trust_env=False)


def test_a_server_on_this_machine_answers():
    """A server on loopback is reached, also through asyncio."""

    async def ask():
        async def greet(reader, writer):
            writer.write(b"here")
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            text = await reader.read()
            writer.close()
        return text

    assert asyncio.run(ask()) == b"here"
