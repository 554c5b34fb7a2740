"use strict";

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#operations",
  layout: "BaseLayout",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // The public validator would send this gateway's address to another host.
  validatorUrl: null,
});
