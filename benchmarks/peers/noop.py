"""A minimal FastAPI endpoint: validate the event with a pydantic model, store nothing, respond."""

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
