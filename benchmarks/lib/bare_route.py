"""A FastAPI route that takes what a submit takes and does nothing with it, as Serve would have anyone write it: what ours is
measured against. Imports Ray: only for those who have set its environment."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel
from ray import serve

api = FastAPI()


class Source(BaseModel):
    """Where the audio lies."""

    url: str


class Request(BaseModel):
    """A job, as far as this goes."""

    source: Source


class Accepted(BaseModel):
    """What is answered."""

    id: str
    phase: str


@api.post("/v1/jobs", status_code=202)
async def submit(asked: Request, response: Response) -> Accepted:
    """Accepts."""
    response.headers["Location"] = f"/v1/jobs/{len(asked.source.url)}"
    return Accepted(id="0", phase="queued")


class Bare:
    """Serves the route."""


def build() -> serve.Application:
    """The application, on the terms of our own Ingress."""
    deployment = serve.deployment(serve.ingress(api)(Bare))
    return deployment.options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=4096).bind()
