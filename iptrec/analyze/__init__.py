"""Values into answers: which events are one packet, which rules it met, what became of it."""
