"""HTTP routes, one module per resource. A route parses the request, calls one stage and answers."""
