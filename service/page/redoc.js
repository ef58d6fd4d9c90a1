// Redoc on this service's OpenAPI document. Its search needs a worker made of text, which the policy forbids.
Redoc.init("openapi.json", { disableSearch: true }, document.getElementById("api"));
