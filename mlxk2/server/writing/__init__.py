"""From the events of an answer to what each API sends: complete objects, and streams in the API's own event form."""
