"""What clients get: the shapes that OpenAPI documents, and how they are made of what the services answer."""
