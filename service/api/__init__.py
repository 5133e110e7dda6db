"""HTTP resources: routes, request bodies, responses, problems."""
