"""The least that FastAPI does with an event: check it by a pydantic model, store nothing, answer."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel


class Event(BaseModel):
    type: str
    data: Any = None


app = FastAPI()


@app.post("/v1/events", status_code=202)
async def publish(event: Event) -> dict[str, str]:
    return {"type": event.type}
