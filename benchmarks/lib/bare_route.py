"""FastAPI route that only parses a submit's body: the baseline of `benchmarks.submit`."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel
from ray import serve

api = FastAPI()


class Source(BaseModel):
    """Location of the audio."""

    url: str


class JobRequest(BaseModel):
    """Body of a submit."""

    source: Source


class Accepted(BaseModel):
    """Body of the response."""

    id: str
    phase: str


@api.post("/v1/jobs", status_code=202)
async def submit(body: JobRequest, response: Response) -> Accepted:
    response.headers["Location"] = f"/v1/jobs/{len(body.source.url)}"
    return Accepted(id="0", phase="queued")


class BareRoute:
    """Deployment of the route."""


def build() -> serve.Application:
    """Application with the deployment options of our own Ingress."""
    deployment = serve.deployment(serve.ingress(api)(BareRoute))
    return deployment.options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=4096).bind()
