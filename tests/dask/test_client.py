"""Tasks on the client's event loop end when they are told to, however they take it."""

from __future__ import annotations

import asyncio

import pytest

from skmlp.dask.rpc import together


async def deaf(times: int) -> str:
    """Swallows so many cancellations."""
    for _ in range(times):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue
    await asyncio.sleep(3600)
    return "never"


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_swallowed_cancellation_is_sent_again(times):
    async def main() -> list[asyncio.Task[str]]:
        async with together(deaf(times), asyncio.sleep(0, "done")) as tasks:
            assert await tasks[1] == "done"
        return tasks

    tasks = asyncio.run(main())
    assert tasks[0].cancelled()
    assert tasks[1].result() == "done"


def test_an_error_inside_comes_out():
    async def main() -> None:
        async with together(deaf(0)):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        asyncio.run(main())
