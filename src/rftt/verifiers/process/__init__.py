"""Process reward models: step scores of a model, in this process or behind a server."""
