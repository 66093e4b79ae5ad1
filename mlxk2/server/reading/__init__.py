"""From what a client asks, in its API's words, to a GenerationRequest."""
