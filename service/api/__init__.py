"""HTTP resources: one router per resource, request bodies, responses, schemas and problems."""
