"""The OpenAPI document as one page that loads nothing from other hosts, with a form to try each route."""

import json
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from musix_runtime.engine import Engine
from musix_runtime.serving import openapi
from musix_runtime.serving.request_context import RequestContext

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }}
code, pre, textarea {{ font: 14px/1.45 ui-monospace, monospace }}
pre, textarea {{ background: #f5f5f4; border: 1px solid #ddd; border-radius: 4px; padding: .6rem; overflow: auto;
  width: 100%; box-sizing: border-box }}
details {{ border-top: 1px solid #ddd; padding: .6rem 0 }}
summary {{ cursor: pointer }}
.method {{ display: inline-block; width: 4rem; font-weight: 600 }}
table {{ border-collapse: collapse }} td {{ padding: .1rem 1rem .1rem 0; vertical-align: top }}
</style>
<h1>{title} <small>{version}</small></h1>
<p>{description} As a document: <a href="openapi.json">openapi.json</a>.</p>
{routes}
<h2>Schemas</h2>
{schemas}
<script>
document.querySelectorAll("button").forEach(button => button.onclick = async () => {{
  const box = button.parentElement, out = box.querySelector(".response");
  const options = {{method: button.dataset.method}};
  const body = box.querySelector("textarea");
  if (body) {{ options.headers = {{"content-type": "application/json"}}; options.body = body.value; }}
  const response = await fetch("." + button.dataset.path, options), text = await response.text();
  let shown = text;
  try {{ shown = JSON.stringify(JSON.parse(text), null, 2); }} catch (error) {{ /* not JSON: shown as it is */ }}
  out.textContent = response.status + "\\n" + shown;
  out.hidden = false;
}});
</script>
</html>
"""


@dataclass(frozen=True)
class Documentation:
    """The OpenAPI document of one bundle: as data and as a page."""

    digest: str
    document: dict[str, Any]
    page: str


class DocumentCache:
    """Keeps the documentation of the bundle that is served, whose tracks and users are its examples."""

    def __init__(self, routes: "list[Route]", engine: Engine) -> None:
        self._routes = routes
        self._latest = self._describe(engine)

    def of(self, context: RequestContext) -> Documentation:
        """Return the documentation for a request; the latest one while the files of the bundle have changed."""
        if not context.unready and context.bundle.digest != self._latest.digest:
            self._latest = self._describe(context.engine)
        return self._latest

    def _describe(self, engine: Engine) -> Documentation:
        document = openapi.document(self._routes, openapi.Examples.of(engine))
        return Documentation(engine.bundle.digest, document, page(document))


def page(document: dict[str, Any]) -> str:
    """Return the HTML page of an OpenAPI document."""
    info = {name: escape(text) for name, text in document["info"].items()}
    routes = [_route(path, *item) for path, methods in document["paths"].items() for item in methods.items()]
    schemas = [
        f"<details><summary><code>{escape(name)}</code></summary>{_pretty(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    ]
    return PAGE.format(**info, routes="\n".join(routes), schemas="\n".join(schemas))


def _route(path: str, method: str, operation: dict[str, Any]) -> str:
    body, form = "", ""
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        body = f"<p>Body</p>{_pretty(content['schema'])}"
        form = f'<textarea rows="5">{escape(json.dumps(content["example"], indent=2))}</textarea>'
    statuses = "".join(
        f"<tr><td>{status}</td><td>{escape(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    call = f'<button data-method="{method.upper()}" data-path="{escape(path)}">Send</button>'
    trial = f'<div>{form}{call}<pre class="response" hidden></pre></div>'
    head = f'<span class="method">{method.upper()}</span><code>{escape(path)}</code> {escape(operation["summary"])}'
    return f"<details><summary>{head}</summary>{body}<table>{statuses}</table>{trial}</details>"


def _pretty(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
