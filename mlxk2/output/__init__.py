"""WORDS for people, made from the JSON payload and streamed events alone."""
