// Shows this service's OpenAPI document, by Swagger UI or by Redoc: whichever the page has loaded.

const answer = await fetch("openapi.json");
const spec = await answer.json();
// The service may stand behind a prefix, which the document does not know.
spec.servers = [{ url: new URL(".", location.href).href.replace(/\/$/, ""), description: "This service." }];
const place = document.getElementById("api");
// Redoc's search needs a worker made of text, which the policy forbids.
if (window.Redoc) Redoc.init(spec, { disableSearch: true, hideDownloadButtons: true }, place);
else SwaggerUIBundle({ spec, domNode: place, deepLinking: true, validatorUrl: null });
