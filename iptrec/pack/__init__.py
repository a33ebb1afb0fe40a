"""One file to attach: a recording, smaller if only some packets matter, and what people read of it."""
