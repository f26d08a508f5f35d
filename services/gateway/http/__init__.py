"""The HTTP front: any OpenAI client can ask the cluster, or one of its models."""
