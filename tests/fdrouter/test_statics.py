"""Static files come whole under ASGI: warnings are errors, so a synchronous stream would fail here."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.staticfiles import finders
from django.test import AsyncClient

PATH = "app/app.css"


@pytest.mark.parametrize(
    ("headers", "status", "part"), [({}, 200, slice(None)), ({"Range": "bytes=5-14"}, 206, slice(5, 15))]
)
def test_a_static_file_is_no_synchronous_stream(headers: dict[str, str], status: int, part: slice) -> None:
    async def read() -> Any:
        return await AsyncClient().get(f"/static/{PATH}", headers=headers)

    with open(str(finders.find(PATH)), "rb") as file:
        content = file.read()[part]
    response = async_to_sync(read)()
    assert (response.status_code, response.streaming, response.content) == (status, False, content)
    assert response["Content-Type"].startswith("text/css")
    assert int(response["Content-Length"]) == len(content)
