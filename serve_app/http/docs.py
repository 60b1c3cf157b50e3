"""Interactive reference at /docs: Swagger UI from an installed package, so that a page loads nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from serve_app.http.auth import HostAllowed

ASSETS = "/docs/assets"


def add_docs(api: FastAPI) -> None:
    """Serve the page and its assets. Their URLs are relative, so that they work behind a proxy that adds a prefix."""
    api.mount(ASSETS, StaticFiles(directory=str(files("fastapi_swagger") / "resources")), name="docs_assets")

    @api.get("/openapi.json", include_in_schema=False, dependencies=[HostAllowed])
    async def document() -> Response:
        return JSONResponse(api.openapi())

    @api.get("/docs", include_in_schema=False, dependencies=[HostAllowed])
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{api.title} API",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
            oauth2_redirect_url=None,
            swagger_ui_parameters={"validatorUrl": None, "docExpansion": "none"},  # the validator is a public service
        )
