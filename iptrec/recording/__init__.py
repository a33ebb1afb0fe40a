"""The file: one SQLite database, all of its SQL, who writes it and who reads it."""
